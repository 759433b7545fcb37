"""`python -m pimsim COMMAND` is `pimsim COMMAND`."""

import sys

from pimsim.cli import main

sys.exit(main())
