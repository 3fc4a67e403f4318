"""Starts the agent: guests' taps are kept closed first, while the rest is loaded."""

import os
import sys


def main() -> None:
    """Run vmnet-hookd, see main.main."""
    keeper = None
    if len(sys.argv) == 1 and os.geteuid() == 0:
        # Not for --help and the like.
        from . import fail_closed

        keeper = fail_closed.first()
    # It takes a third of a second to load.
    from .main import main as run

    run(obj=keeper)
