"""Everything private of Dagster that the tests use: a web server's view of a code location, and events made by hand."""

from dagster._core.events import DagsterEvent, DagsterEventType, StepFailureData
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

__all__ = [
    "AssetRecord",
    "DagsterEvent",
    "DagsterEventType",
    "InProcessCodeLocationOrigin",
    "InProcessWorkspaceLoadTarget",
    "LoadableTargetOrigin",
    "StepFailureData",
    "WorkspaceProcessContext",
]
