"""Quantization recipes and passes over exported graphs, with a quality report."""

from ttt_ref.offline import disable_telemetry

disable_telemetry()
