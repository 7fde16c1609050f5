"""The code location. Importing it reads one YAML file and imports neither torch nor diffusers."""

import warnings

import dagster as dg

from assets.attribution import attribution_assets
from assets.automation import SOURCES, automation_sensor, cron_schedules, preference_sensor, watch_sensor
from assets.checks import checks
from assets.clips import clip_assets, source_assets
from assets.curation import curation_assets
from assets.dead_runs import alive_resource, dead_runs_sensor
from assets.evaluation import evaluation_assets
from assets.motion import motion_assets
from assets.resources import workspace_resource
from assets.training import training_assets
from motive_pipeline.config import Config, load_config
from motive_pipeline.storage.workspace import Workspace


def build_definitions(config: Config, workspace: Workspace | None = None) -> dg.Definitions:
    """The whole graph for one config."""
    warnings.filterwarnings("ignore", category=dg.BetaWarning)  # observable sources; the staleness tests watch over them
    workspace = workspace or Workspace(config)
    study_sensors = [preference_sensor(config)] if config.comparisons else []
    return dg.Definitions(
        assets=[
            *source_assets(workspace),
            *clip_assets(config),
            *motion_assets(config),
            *attribution_assets(config),
            *curation_assets(config),
            *training_assets(config),
            *evaluation_assets(config),
        ],
        asset_checks=checks(config),
        jobs=_jobs(config),
        sensors=[automation_sensor(config), watch_sensor(config), *study_sensors, dead_runs_sensor(workspace)],
        schedules=cron_schedules(config),
        resources={"alive": alive_resource(workspace), "workspace": workspace_resource(workspace)},
        executor=dg.in_process_executor,
    )


def _jobs(config: Config) -> list:
    """``observe`` looks at files and weights; the others materialize the part of the graph they name."""
    sources = dg.AssetSelection.keys(*SOURCES)
    everything = dg.AssetSelection.all() - sources
    curate = dg.AssetSelection.groups("clips", "motion", "attribution", "curation")
    study = [
        dg.define_asset_job(
            "preference", dg.AssetSelection.keys("preference_study"), description="What the votes of the preference study say."
        )
    ]
    return [
        *(study if config.comparisons else []),
        dg.define_asset_job("observe", sources, description="Look at clips, queries, weights and result files; computes nothing."),
        dg.define_asset_job("curate", curate, description="From the files to the curated subsets."),
        dg.define_asset_job("finetune_and_evaluate", everything - curate, description="Train, generate and score every arm; the report."),
        dg.define_asset_job("everything", everything, description="The whole graph."),
        dg.define_asset_job("checks", dg.AssetSelection.all_asset_checks(), description="Look again at what is there; computes nothing."),
    ]


defs = build_definitions(load_config())
