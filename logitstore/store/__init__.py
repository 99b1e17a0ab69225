"""Where a cache lies, and how its parts are written once and read: layout, storage, parts, the reader. No torch."""
