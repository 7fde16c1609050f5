"""Asset names as users write them (``voted_ranking/motive``) and as Dagster keeps them."""

import re

import dagster as dg

from motive_pipeline.graph import Asset, Graph


def asset_name(key: dg.AssetKey) -> str:
    """``projected_gradients/motive``: the key as users write it."""
    return "/".join(key.path)


def asset_key(name: str) -> dg.AssetKey:
    """The key of ``projected_gradients/motive``."""
    return dg.AssetKey(name.split("/"))


def asset_group(asset: Asset) -> str:
    """The group of an asset in the UI, ``attribution`` or ``attribution/projected_gradients``.

    The UI titles a node with the last part of its key, and shows nothing else of the key there (``AssetNameRow`` in its ``AssetNode.tsx``). So the five assets
    of a lane would be five nodes called ``motive``. In a group of their own, whose box bears the asset's name, the lanes of each asset are told apart.
    """
    return f"{asset.group}/{asset.name}" if asset.lane else asset.group


def with_subgroups(selection: str, project: Graph) -> str:
    """``selection`` in which each ``group:attribution`` means the groups below it, too; a group named with a ``/`` or a ``*`` stays as it is."""

    def expanded(found: re.Match[str]) -> str:
        groups = sorted({asset_group(asset) for asset in project.assets.values() if asset.group == found[1]})
        return "(" + " or ".join(f'group:"{group}"' for group in groups) + ")" if groups else found[0]

    return re.sub(r'\bgroup:\s*"?(\w+)"?(?![\w/*])', expanded, selection)
