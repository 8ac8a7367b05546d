"""`python -m poolwright`."""

import sys

from poolwright.cli.main import main

sys.exit(main())
