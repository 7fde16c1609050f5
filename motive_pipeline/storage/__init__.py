"""Ground floor: where rows, published assets and score tables live on disk."""

import warnings

# Ids are fixed-length bytes (S16), as DESIGN has them. Zarr v3 has no specification for any fixed-length string or bytes type yet and
# warns each time such an array is written or opened; zarr-python and xarray read them, and these arrays can be rebuilt from the tables.
warnings.filterwarnings("ignore", message=r".*(NullTerminatedBytes|RawBytes).*does not have a Zarr V3 specification", category=Warning)
