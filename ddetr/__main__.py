"""`python -m ddetr`."""

import sys

from .cli import main

sys.exit(main())
