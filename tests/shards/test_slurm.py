"""``deploy/slurm`` on a real Slurm cluster of two nodes: catalogs, shards, one of them stopped in the middle, merge, and the run that publishes."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from motive_pipeline.shards.record import load_record
from motive_pipeline.shards.share import RECORD
from tests.shards.conftest import open_project
from tests.slurm_cluster import MISSING, is_installed, slurm_cluster

SUBMIT = Path(__file__).parents[2] / "deploy" / "slurm" / "submit.sh"

SLOW_ONCE = """#!{python}
# The command `motive`; the first try of shard 2 stays at its first gradient until it is stopped.
import sys, time
from pathlib import Path
import motive_pipeline.attribution.stage as stage
from motive_pipeline.cli import main

marker = Path({marker!r})
if "2/2" in sys.argv and not marker.exists():
    def waits(*_, **__):
        marker.touch()
        time.sleep(300)
    stage.gradient_row = waits
sys.exit(main())
"""


def asked(command: list[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


def wait_until(is_true, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.slow
def test_an_array_of_shards_survives_a_stop_and_the_jobs_behind_it_merge_and_publish(videos, tmp_path):
    if not is_installed():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    ws = open_project(videos, tmp_path, arms=["random", "motive"])
    marker, motive = tmp_path / "at_work", tmp_path / "motive"
    motive.write_text(SLOW_ONCE.format(python=sys.executable, marker=str(marker)), encoding="utf-8")
    motive.chmod(0o755)
    shards = ws.root / "shards" / "2"
    with slurm_cluster(tmp_path / "slurm") as environment:
        environment = {**environment, "MOTIVE": str(motive), "MOTIVE_UNTIL": "ranking", "PYTHONPATH": str(SUBMIT.parents[2])}
        submitted = subprocess.run(
            [SUBMIT, "2", ws.config.file], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        ).stdout
        _, array, merge, publish = (part.split()[1] for part in submitted.split(","))
        wait_until(marker.exists, 120)
        stopped = time.monotonic()
        asked(["scancel", "--signal=TERM", f"{array}_2"], environment)
        wait_until(lambda: "PENDING" in asked(["squeue", "-h", "-o", "%T", "-j", f"{array}_2"], environment), 30)
        assert time.monotonic() - stopped < 30, "a shard ends within its grace period"
        assert not (shards / "2" / RECORD).exists()
        time.sleep(
            3
        )  # within the second in which a job was killed its node refuses it ("credential revoked"); Slurm itself would wait two minutes
        asked(["scontrol", "update", f"jobid={array}_2", "StartTime=now"], environment)
        jobs = ",".join([array, merge, publish])
        wait_until(lambda: not asked(["squeue", "-h", "-j", jobs], environment).strip(), 240)
    logs = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.glob("motive-*.log")}
    told = "\n".join(f"{name}:\n{text}" for name, text in logs.items())
    second = logs["motive-shards-2.log"]
    assert "motive: stopped; committed results are kept" in second, told
    assert "stopped by Slurm; back into the queue" in second
    record = load_record(shards / "2")
    assert record.assets["latents"].computed == 0, "the second try goes on where the first one was"
    assert record.assets["latents"].reused == record.num_clips
    assert load_record(shards / "1").num_clips + record.num_clips == 6
    assert "2 shards are merged" in logs[f"motive-merge-{merge}.log"], told
    published = open_project(videos, tmp_path, arms=["random", "motive"])
    for key in ("latents", "query_latents", "motion_masks", "query_masks", "projected_gradients/motive", "query_gradients/motive"):
        assert published.published(key).counts.computed == 0, key
    assert len(published.published("voted_ranking/motive").table("ranking")) == 5
