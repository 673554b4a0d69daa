"""What makes and tries the files that an index would carry."""
