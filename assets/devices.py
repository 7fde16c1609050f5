"""Finds out before any work that a device, which something in a run needs, does not exist on this machine.

Belongs here: which assets of a run need which device. Does not belong here: how a device is looked for (``models/load.py``, ``evaluation/vbench/``).
"""

from collections.abc import Iterable

import dagster as dg

from assets.dead_runs import BY_SHELL
from assets.names import asset_name
from motive_pipeline.errors import MotiveError
from motive_pipeline.evaluation.vbench.measure import require_vbench_device
from motive_pipeline.models.load import require_device
from motive_pipeline.storage.workspace import Workspace

_last_run: dict[str, MotiveError | None] = {}
"""The outcome for the run that this process looked at last, by its id."""


def require_devices(workspace: Workspace, may_run: Iterable[dg.AssetKey]) -> None:
    """Check the devices of ``model.device``, ``engine.devices`` and ``evaluate.vbench.device``, where something in ``may_run`` needs them. Only a device that is
    named (not ``auto``, not ``cpu``) takes time.

    Raises:
        MotiveError: one does not exist here.
    """
    assets = workspace.graph.assets  # a run can also observe sources, which are none
    stages = {assets[name].stage.name: assets[name].stage for name in map(asset_name, may_run) if name in assets}
    on_workers = workspace.config.engine.kind == "ray"  # their nodes have the devices
    if any(stage.on_device for stage in stages.values()) and not on_workers:
        require_device(workspace.config.model.device)
        for name in workspace.config.engine.all_devices:
            require_device(name, "engine.devices")
    if "eval_scores" in stages and workspace.config.evaluate.backend == "vbench":
        require_vbench_device(workspace.config)


def require_devices_of_run(workspace: Workspace, context: dg.AssetExecutionContext) -> None:
    """The same for all assets of a Dagster run, looked at once in a run. ``motive run`` has looked at everything before its first run.

    Raises:
        MotiveError: a device does not exist here.
    """
    if context.run.tags.items() >= BY_SHELL.items():
        return
    if context.run.run_id not in _last_run:
        _last_run.clear()
        try:
            require_devices(workspace, context.job_def.asset_layer.selected_asset_keys)
            _last_run[context.run.run_id] = None
        except MotiveError as error:
            _last_run[context.run.run_id] = error
    if (error := _last_run[context.run.run_id]) is not None:
        raise error
