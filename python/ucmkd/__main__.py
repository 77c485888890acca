"""``python -m ucmkd``: the command line, as ``torchrun -m ucmkd`` starts it."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
