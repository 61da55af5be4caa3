"""`python -m twophase.sandbox.tcc`."""

import sys

from twophase.sandbox.tcc.main import main

sys.exit(main())
