"""Reference PyTorch implementation of Text-to-Talk: the slow, readable truth."""

from ttt_ref.offline import disable_telemetry

disable_telemetry()
