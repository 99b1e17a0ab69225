"""Orders of samples that a cache has in several views."""
