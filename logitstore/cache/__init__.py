"""The cache on disk: layout, parts, reader, verification. No torch here."""
