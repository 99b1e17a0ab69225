"""Settings about the models themselves: what is trained of a student, and where a teacher lies."""
