"""The console scripts: each imports its command inside the launcher (see `ttt_ref.launch`)."""

from ttt_ref.launch import launch


def export() -> None:
    """Run `ttt-export`."""
    launch("ttt_export.cli")


def engines() -> None:
    """Run `ttt-engines`."""
    launch("ttt_export.tensorrt.cli")
