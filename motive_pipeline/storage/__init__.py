"""Ground floor: where rows, published assets and score tables live on disk."""
