"""The benchmark beside other engines."""
