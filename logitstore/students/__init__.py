"""Models that learn: fresh ones from the teacher's configuration, copies with fewer layers, and the check that they fit."""
