"""Other processes that do pieces of work for this one, such as parts to check or documents to tokenise."""
