"""Catalogs: which clips and queries there are, what has changed, what was rejected, and which look alike."""
