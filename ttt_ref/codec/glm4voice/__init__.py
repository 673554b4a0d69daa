"""The GLM-4-Voice speech codec in plain torch: the codec of the published TtT weights."""
