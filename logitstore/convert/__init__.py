"""From cache to cache, without a teacher: other rows of one cache, or the mean of several."""
