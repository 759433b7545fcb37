"""`python -m ragcache COMMAND` is `ragcache COMMAND`."""

import sys

from ragcache.cli.main import main

sys.exit(main())
