"""`python -m moe_harness`: the same as the command `moe-harness`."""

from moe_harness.cli.app import main

if __name__ == "__main__":
    main()
