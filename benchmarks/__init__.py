"""Programs that measure, none of them part of the tests."""

from ttt_ref.offline import disable_telemetry

disable_telemetry()
