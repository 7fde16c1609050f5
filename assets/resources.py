"""Dagster's resources: the workspace under the root's lock, and the sign that a run's process lives.

Belongs here: what a run holds from its start to its end. Does not belong here: what happens to runs whose process died (``dead_runs.py``).
"""

from collections.abc import Iterator

import dagster as dg

from assets.dead_runs import run_lock
from assets.instance import claim_root
from motive_pipeline.storage.layout import mark_layout
from motive_pipeline.storage.workspace import Workspace

WAIT_FOR_ROOT_S = 12 * 3600.0


def workspace_resource(workspace: Workspace) -> dg.ResourceDefinition:
    """The workspace, with the root's lock held from the start of a run to its end."""

    @dg.resource(
        description=f"The project below {workspace.root}; holding it means holding the root's lock.", required_resource_keys={"alive"}
    )
    def locked_workspace(context: dg.InitResourceContext) -> Iterator[Workspace]:
        assert context.run is not None
        assert context.instance is not None
        workspace.lock.acquire(wait_s=WAIT_FOR_ROOT_S, who=f"Dagster run {context.run.run_id[:8]}")
        try:
            mark_layout(workspace.root)
            claim_root(context.instance, workspace.root)
            workspace.begin_run(context.run.run_id)
            yield workspace
        finally:
            workspace.lock.release()

    return locked_workspace


def alive_resource(workspace: Workspace) -> dg.ResourceDefinition:
    """Holds the run's own lock.

    It is not given back at the end: the run's last events are written after its resources are gone. The end of the process gives it back,
    or, in ``motive run``, :func:`run_ended`.
    """

    @dg.resource(description="Shows that the run's process lives.")
    def alive(context: dg.InitResourceContext) -> Iterator[None]:
        assert context.run is not None
        run_lock(workspace.state, context.run.run_id).acquire(wait_s=5.0)
        yield

    return alive
