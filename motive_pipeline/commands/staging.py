"""``motive stage``: publishes one asset, as a job of a Ray cluster does it for a Dagster run elsewhere (``assets/ray_jobs.py``). Not for people."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from motive_pipeline.config import Config


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``stage`` to the command line."""
    stage = command("stage", run, "Publish one asset, as a part of a run that holds the root. Used by jobs of a Ray cluster.")
    stage.add_argument("asset", metavar="ASSET", help="for instance latents or projected_gradients/motive")
    stage.add_argument("--run", required=True, metavar="ID", help="the run that the publication belongs to")
    stage.add_argument("--folder", required=True, type=Path, metavar="FOLDER", help="where the run shows that it lives")


def run(config: Config, arguments: argparse.Namespace) -> int:
    """Publish the asset; the exit code is 0 if that was done."""
    from assets.job_body import publish_in_job

    return publish_in_job(config, arguments.asset, run_id=arguments.run, folder=arguments.folder)
