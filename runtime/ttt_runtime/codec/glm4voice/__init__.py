"""The GLM-4-Voice codec without torch: numpy around five graphs."""

from ttt_runtime.codec.glm4voice.load import check, load

__all__ = ["check", "load"]
