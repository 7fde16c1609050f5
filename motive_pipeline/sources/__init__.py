"""Layouts and tables of data sets: each source lists its videos with captions and the publisher's metadata."""
