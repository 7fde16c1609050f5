"""What the Dagster UI says: the query behind its button "Materialize unsynced", answered by the web server's own schema in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster_graphql.schema import create_schema

from assets.definitions import build_definitions
from motive_pipeline.config import Config
from tests.dagster_internals import (
    AssetRecord,
    InProcessCodeLocationOrigin,
    InProcessWorkspaceLoadTarget,
    LoadableTargetOrigin,
    WorkspaceProcessContext,
)

QUERY = "query AssetStaleStatusQuery { assetNodes { assetKey { path } isMaterializable staleStatus } }"

_SCHEMA = create_schema()
_loaded: list[Config] = []


def definitions() -> dg.Definitions:
    """The code location that the web server would load now."""
    return build_definitions(_loaded[-1])


@contextmanager
def web_server(config: Config, instance: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    """A web server that has (re)loaded the code location under ``config``."""
    _loaded[:] = [config]
    target = LoadableTargetOrigin(module_name="tests.ui_status", attribute="definitions")
    with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(target))) as server:
        yield server


def unsynced(server: WorkspaceProcessContext) -> set[str]:
    """The assets that "Materialize unsynced" would run: those with the status stale or missing."""
    context = server.create_request_context()
    AssetRecord.prepare(context, context.asset_graph.get_all_asset_keys())
    answer = _SCHEMA.execute(QUERY, context_value=context)
    assert not answer.errors, answer.errors
    nodes = [node for node in answer.data["assetNodes"] if node["isMaterializable"]]
    return {"/".join(node["assetKey"]["path"]) for node in nodes if node["staleStatus"] in ("STALE", "MISSING")}
