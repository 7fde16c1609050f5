"""Turns whatever goes wrong while one video is read into a rejection of that video: one file never ends a run."""

from __future__ import annotations

import traceback

from motive_pipeline.errors import RejectRow


def as_rejection(error: Exception) -> RejectRow:
    """The rejection that ``error`` is. ``reader_error`` for one that nobody expected names the exception and the line that raised it. It is tried
    again in the next run, so that a newer version of the software is not bound by it."""
    if isinstance(error, RejectRow):
        return error
    if isinstance(error, MemoryError):
        return RejectRow("out_of_memory", "decoding needs more memory than there is", transient=True)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{place.filename.rpartition('/')[2]}, line {place.lineno}"
    return RejectRow(
        "reader_error", f"reading it failed with {type(error).__name__}: {error} ({where}). Please report this", transient=True
    )
