"""Looking at a cache: what it is, and what the teacher thinks of one sample. No torch."""
