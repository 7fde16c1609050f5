"""``motive stage``: publishes one asset, as a job of a Ray cluster does it for a Dagster run elsewhere (``assets/ray_jobs.py``). Not for people."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``stage`` to the command line."""
    stage = command(
        "stage",
        run,
        "Publish one asset, as a part of a run that holds the root. Only for jobs of a Ray cluster, which get their settings from the run.",
        needs_config=False,
    )
    stage.add_argument("asset", metavar="ASSET", help="for instance latents or projected_gradients/motive")
    stage.add_argument("--run", required=True, metavar="ID", help="the run that the publication belongs to")


def run(arguments: argparse.Namespace) -> int:
    """Publish the asset; the exit code is 0 if that was done."""
    from assets.job_body import publish_in_job

    return publish_in_job(arguments.asset, run_id=arguments.run)
