"""The teacher's half: a teacher answers, a sparsifier chooses, and parts of a cache are written."""
