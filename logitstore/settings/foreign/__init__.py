"""The settings of `convert` and `export`, and the table of the formats that other software writes."""
