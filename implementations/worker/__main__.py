"""`python -m implementations.worker --wire FD --directory DIR --lent DIR NAME`: the far side. Started by `child.py`, not by hand."""

from __future__ import annotations

from implementations.worker.far import main

if __name__ == "__main__":
    main()
