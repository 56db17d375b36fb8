"""`python -m aizuchi` is the `aizuchi` command."""

import sys

from aizuchi.cli import main

if __name__ == "__main__":
    sys.exit(main())
