"""`python -m fcgiserve` is the command `fcgiserve`."""

import sys

from .cli import main

sys.exit(main())
