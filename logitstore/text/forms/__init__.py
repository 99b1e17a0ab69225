"""The forms in which data come: how each is told from the columns, and how a row of it becomes tokens with a mask."""
