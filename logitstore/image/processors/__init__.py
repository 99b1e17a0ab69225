"""Image processors of models: read, described in the terms of a cache's views, and compared with what they do."""
