"""The task of texts, as a plug-in: what a text is on disk, for a teacher, for a student and for people."""
