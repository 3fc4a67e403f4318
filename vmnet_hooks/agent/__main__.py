"""`python3 -m vmnet_hooks.agent`."""

import sys

from .main import main

sys.exit(main())
