"""The student's half: stored rows are read, compared with a student's output, and the student is trained."""
