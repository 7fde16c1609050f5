"""A newcomer's first settings (``motive init``): recognises how videos lie on disk, looks into them, and writes a commented config."""
