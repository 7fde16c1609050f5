"""Dagster's jobs: the named parts of the graph that a run can be started for.

Belongs here: selections of assets and checks. Does not belong here: what starts them (``sensors.py``, ``schedules.py``, ``run_stale.py``).
"""

import dagster as dg

from assets.names import asset_key
from motive_pipeline.config import Config
from motive_pipeline.graph import CURATION_GROUPS, SOURCES, Graph


def jobs(config: Config) -> list:
    """``observe`` looks at files and weights, ``checks`` at what is there; the others materialize the part of the graph they name."""
    sources = dg.AssetSelection.keys(*SOURCES)
    everything = dg.AssetSelection.all() - sources
    curate = dg.AssetSelection.keys(*(asset_key(asset.key) for asset in Graph(config).assets.values() if asset.group in CURATION_GROUPS))
    found = [
        dg.define_asset_job("observe", sources, description="Look at clips, queries, weights and result files; computes nothing."),
        dg.define_asset_job("curate", curate, description="From the files to the curated subsets."),
        dg.define_asset_job("finetune_and_evaluate", everything - curate, description="Train, generate and score every arm; the report."),
        dg.define_asset_job("everything", everything, description="The whole graph."),
        dg.define_asset_job("checks", dg.AssetSelection.all_asset_checks(), description="Look again at what is there; computes nothing."),
    ]
    if config.comparisons:
        study = dg.AssetSelection.keys("preference_study")
        found.insert(0, dg.define_asset_job("preference", study, description="What the votes of the preference study say."))
    return found
