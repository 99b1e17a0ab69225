"""What a teacher says now, compared with what a cache keeps in place of distributions."""
