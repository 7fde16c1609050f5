"""Dagster's observable source assets: files and weights that live outside Dagster.

Belongs here: how a source of the graph is observed. Does not belong here: which sources there are (``motive_pipeline/graph/stages.py``), how
a version is found (the library), what watches them between runs (``sensors.py``).
"""

import dagster as dg

from motive_pipeline.errors import MotiveError, error_with_file
from motive_pipeline.graph import SOURCES, Source, resolve_dotted
from motive_pipeline.storage.workspace import Workspace


def source_assets(workspace: Workspace) -> list[dg.SourceAsset]:
    """One observable source for each source of the graph; its data version is a hash of the content."""
    return [_source_asset(workspace, source) for source in SOURCES.values()]


def _source_asset(workspace: Workspace, source: Source) -> dg.SourceAsset:
    @dg.observable_source_asset(
        name=source.name,
        group_name="sources",
        description=source.description,
        tags={f"dagster/kind/{kind}": "" for kind in source.kinds},
        required_resource_keys={"alive"},
    )
    def observed(context: dg.OpExecutionContext) -> dg.ObserveResult:
        try:
            version, facts = resolve_dotted(source.observe)(workspace)
        except MotiveError as error:
            raise dg.Failure(description=error_with_file(error, workspace.config.file), allow_retries=False) from error
        return dg.ObserveResult(data_version=dg.DataVersion(version), metadata=facts)

    return observed
