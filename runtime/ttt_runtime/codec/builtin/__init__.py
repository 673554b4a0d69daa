"""The built-in codec without torch: numpy around two small graphs."""

from ttt_runtime.codec.builtin.load import check, load

__all__ = ["check", "load"]
