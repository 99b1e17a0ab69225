"""Objectives on the scores of the documents of a query, of a student and of a teacher, which are compared with each other."""
