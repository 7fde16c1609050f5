"""The code location. Importing it reads one YAML file and imports neither torch nor diffusers.

Belongs here: joining what the other modules define. Nothing else does.
"""

import warnings

import dagster as dg

from assets.assets import stage_assets
from assets.checks import checks
from assets.jobs import jobs
from assets.resources import alive_resource, workspace_resource
from assets.schedules import cron_schedules
from assets.sensors import sensors
from assets.sources import source_assets
from motive_pipeline.config import Config, load_config
from motive_pipeline.storage.workspace import Workspace


def build_definitions(config: Config, workspace: Workspace | None = None) -> dg.Definitions:
    """The whole graph for one config."""
    warnings.filterwarnings("ignore", category=dg.BetaWarning)  # observable sources; the staleness tests watch over them
    workspace = workspace or Workspace(config, follow=False)  # no network when Dagster loads the code
    return dg.Definitions(
        assets=[*source_assets(workspace), *stage_assets(config)],
        asset_checks=checks(config),
        jobs=jobs(config),
        sensors=sensors(config, workspace),
        schedules=cron_schedules(config),
        resources={"alive": alive_resource(workspace), "workspace": workspace_resource(workspace)},
        executor=dg.in_process_executor,
    )


defs = build_definitions(load_config())
