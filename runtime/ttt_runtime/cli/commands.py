"""The console scripts: each imports its command inside the launcher (see `ttt_ref.launch`)."""

from ttt_ref.launch import launch


def assistant() -> None:
    """Run `ttt-assistant`."""
    launch("ttt_runtime.cli.assistant")


def server() -> None:
    """Run `ttt-server`."""
    launch("ttt_runtime.cli.server")


def profile() -> None:
    """Run `ttt-profile`."""
    launch("ttt_runtime.cli.profile")


def doctor() -> None:
    """Run `ttt-doctor`."""
    launch("ttt_runtime.cli.doctor")
