"""The task of classifying texts: one row a text, or a pair of texts."""
