"""One file a format: how its records become blocks of samples with what the teacher said about them."""
