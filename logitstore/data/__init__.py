"""From files and hub data sets to samples: documents, tokens, windows."""
