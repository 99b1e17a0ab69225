"""Settings about caches in object stores: copying them, their state, the folder that they are read through."""
