"""ttt-doctor: what this machine can run, and what a bundle needs that is not there."""
