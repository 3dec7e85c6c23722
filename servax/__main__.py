"""``python -m servax`` is the command line."""

from __future__ import annotations

import sys

from servax.cli import main

if __name__ == "__main__":
    sys.exit(main())
