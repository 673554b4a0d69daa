"""The console scripts: each imports its command inside the launcher (see `ttt_ref.launch`)."""

from ttt_ref.launch import launch


def random() -> None:
    """Run `ttt-random`."""
    launch("ttt_ref.random_weights")


def train() -> None:
    """Run `ttt-train`."""
    launch("ttt_ref.train.cli")


def init() -> None:
    """Run `ttt-init`."""
    launch("ttt_ref.init_checkpoint")


def prepare() -> None:
    """Run `ttt-prepare`."""
    launch("ttt_ref.prepare.cli")
