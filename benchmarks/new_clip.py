"""How long it takes from a clip dropped into the demo's folder to the new ranking, with a Dagster daemon running: part by part.

    python -m benchmarks.new_clip [--rounds 3] [--clips 320] [--keep FOLDER]

The project is the demo of ``motive.yaml``, its 320 clips lying in a folder of the user's own, curated once by hand. Then the daemon is
started and one more clip after the other is dropped into the folder. What happens is read from Dagster's records: the sensor's look (every
``schedule.watch_interval_s``, after ``schedule.settle_s`` at rest) and its request, the start of the run's process, and each stage. "the rest
of the run" is what lies between the stages: loading Dagster and torch, events, checks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import dagster as dg
import yaml

from assets.instance import open_instance
from benchmarks import common
from motive_pipeline.config import Config, load_config
from motive_pipeline.demo.dataset import write_demo
from tests.daemon import dagster_daemon, until

CURATION = 'group:"clips" or group:"motion" or group:"attribution" or group:"curation"'
AT_MOST_S = 45.0
WITHIN_S = 1800.0
STAGES = {
    "catalog": ("clip_catalog", "query_catalog"),
    "latents": ("latents", "query_latents"),
    "masks": ("motion_masks", "query_masks"),
    "gradients, both variants": ("projected_gradients", "query_gradients"),
    "influence": ("influence_matrix",),
    "ranking": ("eligible_pool", "voted_ranking"),
}


def make_project(folder: Path, num_clips: int | None, num_new: int) -> tuple[Config, list[Path]]:
    """The demo, with another number of clips if one is given, in folders of the user's own; its config, and ``num_new`` clips kept back."""
    settings = yaml.safe_load((common.REPOSITORY / "motive.yaml").read_text(encoding="utf-8"))
    demo, queries = settings["clips"].pop("demo"), settings["queries"].pop("demo")
    drawn = write_demo(
        folder / "drawn",
        seed=demo["seed"],
        split=demo["split"],
        num_clips=(num_clips or demo["num_clips"]) + num_new,
        num_queries=queries["num_queries"],
        num_held_out=queries["num_held_out"],
        query_motion=queries["motion"],
    )
    clips = sorted((drawn / "clips").glob("*.mp4"))
    (folder / "clips").mkdir()
    for clip in clips[num_new:]:
        drop(clip, folder / "clips")
    settings["clips"] |= {"source": "folder", "path": "clips"}
    settings["queries"] |= {"source": "folder", "path": "drawn/queries", "held_out_path": "drawn/held_out"}
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_config(file), clips[:num_new]


def drop(clip: Path, folder: Path) -> None:
    """A copy of the clip, its caption first."""
    for file in (clip.with_suffix(".txt"), clip):
        shutil.copyfile(file, folder / file.name)


def curate(config: Config) -> None:
    """The first curation, by hand."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "MOTIVE_CONFIG")}
    command = [sys.executable, "-m", "motive_pipeline.cli", "run", "--quiet", "--config", str(config.file), "--select", CURATION]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)


def parts(instance: dg.DagsterInstance, record: dg.RunRecord, dropped: float) -> dict[str, float]:
    """Seconds of each part, from the drop to the ranking by ``motive``; the sum comes last."""
    logs = instance.all_logs(record.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    took = {log.step_key: log.dagster_event.step_success_data.duration_ms / 1000 for log in logs if log.dagster_event and log.step_key}
    ranked = next(log.timestamp for log in logs if log.step_key == "voted_ranking__motive")
    requested, started = record.create_timestamp.timestamp(), record.start_time or 0.0
    found = {"at rest, looked at, run requested": requested - dropped, "run queued, its process started": started - requested}
    for part, assets in STAGES.items():
        found[part] = sum(seconds for step, seconds in took.items() if step.split("__")[0] in assets)
    found["the rest of the run, up to the ranking"] = ranked - started - sum(found[part] for part in STAGES)
    return found | {"in all": ranked - dropped}


def main() -> None:
    """Print the parts of each round, and of the middle one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, help="clips to begin with, instead of the demo's")
    parser.add_argument("--keep", type=Path, help="make the project in this new folder and leave it")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    config, new = make_project(folder, arguments.clips, arguments.rounds)
    curate(config)
    rounds = []
    log = folder / "daemon.log"
    with dagster_daemon(config, log), open_instance(config) as instance:
        until(lambda: "SENSOR" in instance.get_daemon_heartbeats(), "the daemon's first look", log, within_s=WITHIN_S)
        time.sleep(2 * config.schedule.watch_interval_s)
        for number, clip in enumerate(new):
            dropped = time.time()
            drop(clip, folder / "clips")

            def runs(wanted: int = number + 1) -> list[dg.RunRecord]:
                """The finished runs, the newest first, once there is one for this clip."""
                found = instance.get_run_records(dg.RunsFilter(job_name="curate"))
                return found if len(found) == wanted and found[0].dagster_run.is_finished else []

            record = until(runs, "the run for the new clip", log, within_s=WITHIN_S)[0]
            if record.dagster_run.status != dg.DagsterRunStatus.SUCCESS:
                sys.exit(f"the run {record.dagster_run.run_id} failed: {log}")
            rounds.append(parts(instance, record, dropped))
            print(f"round {number + 1}: {rounds[-1]['in all']:.1f} s", flush=True)
    load = os.getloadavg()
    print(
        f"\none clip more, from its drop to the new ranking; medians of {len(rounds)} rounds; load {load[0]:.1f} on {os.cpu_count()} cores"
    )
    for part in rounds[0]:
        print(f"  {part:40} {median(each[part] for each in rounds):6.1f} s")
    print(f"  at most {AT_MOST_S:.0f} s: {'met' if median(each['in all'] for each in rounds) <= AT_MOST_S else 'MISSED'}")
    if arguments.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
