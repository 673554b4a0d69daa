"""ttt-profile: where the time of a turn goes."""
