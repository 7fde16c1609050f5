"""Byte sources: folders, archives and Parquet columns, behind one value (:class:`~.media_file.MediaFile`), and hashes of their content."""
