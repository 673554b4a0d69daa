"""`python -m ttt_export` is `ttt-export`; without arguments it shows the help."""

import sys

from ttt_ref.launch import launch

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    launch("ttt_export.cli")
