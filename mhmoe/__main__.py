"""``python -m mhmoe``: see :mod:`mhmoe.cli`."""

import sys

from mhmoe.cli import main

if __name__ == "__main__":
    sys.exit(main())
