"""Asset names as users write them (``voted_ranking/motive``) and as Dagster keeps them."""

import dagster as dg


def asset_name(key: dg.AssetKey) -> str:
    """``projected_gradients/motive``: the key as users write it."""
    return "/".join(key.path)


def asset_key(name: str) -> dg.AssetKey:
    """The key of ``projected_gradients/motive``."""
    return dg.AssetKey(name.split("/"))
