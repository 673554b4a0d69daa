"""Run graphs, decide nothing."""
