"""`python -m ttt_export` is `ttt-export`; without arguments it shows the help."""

import sys

from ttt_export.cli import main

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    main()
