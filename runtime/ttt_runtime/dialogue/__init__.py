"""One conversation: who speaks, what was said, what of it was heard."""
