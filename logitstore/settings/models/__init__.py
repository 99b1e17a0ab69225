"""Settings about the models themselves: what is trained of a student, where a teacher lies, and what it generates."""
