"""Settings about labelled data and pairs of texts."""
