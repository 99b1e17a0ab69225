"""Checks of what is stored: bytes and invariants, rows, and whether two caches hold the same samples."""
