"""Reading and writing videos: probe, decode by time stamp, encode, and the worker processes that do it ahead of the caller."""
