"""Shards: the rows of one part of the clips, computed without an engine and merged into the main root afterwards."""
