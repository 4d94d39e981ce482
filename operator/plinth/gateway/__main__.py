"""`python -m plinth.gateway`: see options.py for the flags."""

import sys

from plinth.gateway.server.process import main

if __name__ == "__main__":
    sys.exit(main())
