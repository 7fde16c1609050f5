"""Dagster's assets: one for each asset of the graph, all made the same way.

Belongs here: how a stage of the library becomes a Dagster asset. Does not belong here: which assets there are and what they read
(``motive_pipeline/graph/``), what they compute (the library), how their metadata looks (``metadata.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from assets.automation import recompute_what_changed
from assets.clip_pictures import first_clips
from assets.devices import require_devices_of_run
from assets.metadata import metadata_of
from assets.names import asset_group, asset_key, asset_name
from assets.ray_jobs import is_job, publish_by_job
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError, error_with_file
from motive_pipeline.graph import Asset, Graph
from motive_pipeline.storage.disk_errors import storage_trouble
from motive_pipeline.storage.workspace import Publication, Workspace

OWNERS = ["team:curation"]

_made: dict[str, set[str]] = {}
"""What the present run has made, by its id."""


def stage_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Every asset of the project, parents first."""
    return [_stage_asset(config, asset) for asset in Graph(config).assets.values()]


def _stage_asset(config: Config, asset: Asset) -> dg.AssetsDefinition:
    """A Dagster asset that runs one stage and shows what it published. What a user can mend fails it with the library's own message."""
    kinds = asset.kinds | ({asset.name} if asset.lane else set())
    may_start = config.schedule.auto_heavy or not asset.stage.heavy

    @dg.asset(
        key=asset_key(asset.key),
        group_name=asset_group(asset),
        kinds=set(kinds),
        owners=OWNERS,
        deps=[asset_key(read) for read in asset.reads],
        description=f"`{asset.key}`: {asset.description}" if asset.lane else asset.description,
        code_version=config.fingerprint(asset.stage.name, asset.lane),
        automation_condition=recompute_what_changed() if may_start else None,
        required_resource_keys={"workspace"},
    )
    def body(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        workspace: Workspace = context.resources.workspace
        try:
            require_devices_of_run(workspace, context)
            with _in_run(workspace, context, asset.key):
                by_job = is_job(config, asset)
                publication: Publication = publish_by_job(workspace, asset, context) if by_job else asset.publish(workspace)
        except MotiveError as error:
            raise dg.Failure(description=error_with_file(error, config.file), allow_retries=False) from error
        except Exception as error:
            if (trouble := storage_trouble(error, workspace.root, workspace.state)) is None:
                raise
            raise dg.Failure(description=trouble, allow_retries=False) from error
        metadata = metadata_of(publication, config.file) | first_clips(workspace, publication)
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(publication.data_version))

    return body


@contextmanager
def _in_run(workspace: Workspace, context: dg.AssetExecutionContext, key: str) -> Iterator[None]:
    """Let the workspace know what the run has still to make while it makes ``key``."""
    if context.run.run_id not in _made:
        _made.clear()
    made = _made.setdefault(context.run.run_id, set())
    workspace.to_come = {asset_name(each) for each in context.job_def.asset_layer.selected_asset_keys} - made - {key}
    try:
        yield
    finally:
        workspace.to_come = set()
    made.add(key)
