"""Make models that learn, fresh ones from the teacher's configuration or copies with fewer layers, and check that they fit."""
