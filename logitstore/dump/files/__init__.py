"""Read some columns of data files, whatever the other columns hold."""
