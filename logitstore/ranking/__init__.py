"""The task of ranking: a sample is a query with its documents, a row is the teacher's score of one of them."""
