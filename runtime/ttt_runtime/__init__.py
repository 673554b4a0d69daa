"""Runtime of Text-to-Talk without torch: schedule, KV cache, streaming speech."""
