"""The specification in code: `cache.json`, `part.json`, the arrays of a row, and how values become bytes. No torch."""
