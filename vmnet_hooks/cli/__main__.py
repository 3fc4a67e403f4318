"""`python3 -m vmnet_hooks.cli`."""

from . import main

if __name__ == "__main__":
    main(prog_name="vmnet-hook")
