"""Images from folders, tars and data sets, found by their keys."""
