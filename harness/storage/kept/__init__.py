"""What was read of files, kept while they are the same."""
