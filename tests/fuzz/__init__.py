"""Fuzzing of everything that reads a stranger's file; see `python -m tests.fuzz --help`."""
