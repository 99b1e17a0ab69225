"""Which positions of a text have a row: what the user asks for, what chooses them, and how a teacher's answers decide it."""
