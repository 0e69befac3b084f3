"""What the launcher starts: the entry point of the installed package."""

import sys

from pipelines.template import main

if __name__ == "__main__":
    sys.exit(main())
