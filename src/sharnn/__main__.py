"""`python -m sharnn`."""

import sys

from sharnn.cli.main import main

sys.exit(main())
