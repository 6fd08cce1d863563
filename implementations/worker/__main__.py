"""The far side: `python -m ... --wire FD --directory DIR --lent DIR NAME`. Started by `child.py`, not by hand."""

from __future__ import annotations

from moe_harness.implementations.worker.far import main

if __name__ == "__main__":
    main()
