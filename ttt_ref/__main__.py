"""`python -m ttt_ref` is `ttt-train`; without arguments it shows the help."""

import sys

from ttt_ref.train.cli import main

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    main()
