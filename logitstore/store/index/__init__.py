"""The index beside the parts of a cache or of a tap: what its parts say of themselves, gathered once; it can be made again."""
