"""Export of the speech codecs."""
