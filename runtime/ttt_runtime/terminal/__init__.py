"""What all command lines share: error exit, progress, tables."""
