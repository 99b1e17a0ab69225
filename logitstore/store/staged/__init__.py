"""What a writer prepares: its lease on it, and the rows of a part."""
