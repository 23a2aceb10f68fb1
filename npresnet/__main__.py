"""``python -m npresnet``: the command without its installed script."""

import sys

from npresnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
