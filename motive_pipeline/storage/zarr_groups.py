"""What every published Zarr group has in common."""

from __future__ import annotations

import warnings

import zarr


def consolidate(group: zarr.Group) -> None:
    """Gather the metadata of all arrays in the group's own, so that readers open it without listing folders and xarray without a warning.

    Call it once the last array and the last attribute are written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)  # it is an extension of Zarr v3
        zarr.consolidate_metadata(group.store)
