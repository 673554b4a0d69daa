"""The GLM-4-Voice codec without torch: numpy around five graphs."""

from ttt_runtime.codec.glm4voice.load import load

__all__ = ["load"]
