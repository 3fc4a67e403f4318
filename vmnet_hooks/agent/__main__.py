"""`python3 -m vmnet_hooks.agent`."""

from .start import main

if __name__ == "__main__":
    main()
