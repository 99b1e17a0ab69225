"""What `cache.json` says about the data of single tasks."""
