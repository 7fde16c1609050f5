"""Starts the runs of the queue. A run that was queued under other settings, for assets that there are no longer, fails with that reason.

Belongs here: what is looked at between the queue and the process of a run. Does not belong here: what asks for runs (``sensors.py``,
``schedules.py``), runs whose process died (``dead_runs.py``). ``dagster.yaml`` names the class.
"""

import dagster as dg

from assets.dagster_internals import LaunchRunContext
from assets.names import asset_name
from motive_pipeline.config import load_config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Graph

NO_RETRY = {"dagster/max_retries": "0"}


class CheckedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's own launcher, behind a look at the settings as they are now."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's process, or mark the run as failed: it is not tried again, since it would be another run under the settings of then."""
        run_id = context.dagster_run.run_id
        if reason := why_not(self._instance, run_id):
            self._instance.add_run_tags(run_id, NO_RETRY)
            run = self._instance.get_run_by_id(run_id)
            assert run is not None
            self._instance.report_run_failed(run, reason)
        else:
            super().launch_run(context)


def why_not(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """Why the run cannot do what it was queued for; None when it can."""
    planned = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED).records
    wanted = {asset_name(record.asset_key) for record in planned if record.asset_key}
    try:
        config = load_config()
    except MotiveError as error:
        return f"{error}\nNothing was run. Mend the settings and start the run again."
    gone = sorted(wanted - Graph(config).assets.keys())
    if not gone:
        return None
    return (
        f"{config.file} has changed since this run was queued: it has no {', '.join(gone)} any more (arms: {', '.join(config.arms)}). Nothing was "
        "run, and it is not tried again. Reload the code location and start a run for the assets that there are."
    )
