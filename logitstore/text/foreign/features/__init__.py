"""Hidden states that other software kept of a teacher become taps of a cache of the same samples."""
