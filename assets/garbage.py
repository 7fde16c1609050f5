"""``motive gc``: what lies in the store and no current setting uses."""

from assets.definitions import build_definitions
from assets.history_copy import instance_to_read
from assets.names import asset_name
from assets.staleness import stale_assets
from motive_pipeline.config import Config
from motive_pipeline.storage.garbage import Unused, remove_unused, report_folders, unused
from motive_pipeline.storage.workspace import Workspace


def collect(config: Config, *, delete: bool) -> list[Unused]:
    """What no current setting uses, by path; with ``delete`` it is removed, under the root's lock.

    Raises:
        Locked: a run is going on.
    """
    workspace = Workspace(config)
    with workspace.lock.holding(wait_s=1.0, who="motive gc", to_read=not delete), instance_to_read(config) as instance:
        graph = build_definitions(config, workspace).resolve_asset_graph()
        assets = {asset_name(key) for key in graph.materializable_asset_keys}
        stale = {asset_name(key) for key in stale_assets(graph, instance, workspace)}
        found = unused(workspace, assets=assets, stale=stale, keep=report_folders(workspace))
        if delete:
            remove_unused(found)
    return found
