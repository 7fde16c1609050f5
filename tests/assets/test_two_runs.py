"""Two runs at once: on one root the second refuses or waits, and says so; on two roots they do not know of each other."""

import os
import signal
import subprocess
import sys
import time

import dagster as dg
import pytest

from assets.instance import open_instance
from assets.run_stale import run_stale
from motive_pipeline.storage.lock import FileLock, Locked
from tests.assets.test_automation import CATALOGS, make_project
from tests.graph_project import Project

HOLD = """
import sys, time
from pathlib import Path
from motive_pipeline.storage.lock import FileLock
FileLock(Path(sys.argv[1]), "it").acquire(who="the test")
print("held", flush=True)
time.sleep(600)
"""

EXECUTE_JOB = """
import sys
import dagster as dg
from assets.definitions import build_definitions
from assets.instance import open_instance
from motive_pipeline.config import load_config
config = load_config(sys.argv[1])
with open_instance(config) as instance:
    job = build_definitions(config).resolve_job_def("curate")
    result = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("clip_catalog"), dg.AssetKey("query_catalog")])
    print(result.success)
"""


@pytest.fixture
def project(tmp_path) -> Project:
    return make_project(tmp_path)


@pytest.fixture
def holder(project):
    """Another process that holds the root of ``project``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(project.workspace.lock.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_in_the_shell_refuses_and_names_the_first(project, holder):
    outcome = project.motive("run")
    assert outcome.code == 1
    assert "is in use by the test" in outcome.err
    assert str(holder.pid) in outcome.err
    assert "Traceback" not in outcome.err
    assert not (project.config.storage.root / "published").exists()


@pytest.mark.slow
def test_a_run_of_the_ui_waits_for_the_one_in_the_shell_and_then_runs(project, holder):
    """The job as the UI's run worker executes it, in a process of its own."""
    run = subprocess.Popen(
        [sys.executable, "-c", EXECUTE_JOB, str(project.file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with open_instance(project.config) as instance:
        deadline = time.monotonic() + 600
        while not instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.2)
        time.sleep(2.0)
    assert run.poll() is None, "it waits"
    assert not (project.config.storage.root / "published").exists()
    holder.kill()
    out, err = run.communicate(timeout=600)
    assert out.strip().endswith("True"), err[-3000:]
    assert "waiting for it to end" in err
    assert project.workspace.has_published("clip_catalog")


@pytest.mark.slow
def test_two_configs_with_two_roots_run_side_by_side_each_on_its_own_instance(tmp_path):
    (tmp_path / "one").mkdir()
    one = make_project(tmp_path / "one")
    two = Project(tmp_path / "one", one.settings | {"storage": {"root": "other_root"}})
    two.file = tmp_path / "one" / "other.yaml"
    two.save()
    one.save()
    command = [sys.executable, "-m", "motive_pipeline.cli", "run", "--select", CATALOGS, "--config"]
    runs = [subprocess.Popen([*command, str(each.file)], stderr=subprocess.PIPE, text=True) for each in (one, two)]
    for run in runs:
        _, err = run.communicate(timeout=600)
        assert run.returncode == 0, err
    assert one.workspace.root != two.workspace.root
    for each in (one, two):
        assert each.workspace.has_published("clip_catalog")
        with open_instance(each.config) as instance:
            assert instance.get_runs_count() == 2, "observe, and one run of its own"


def test_a_killed_run_in_the_shell_blocks_nothing(project):
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    with project.started("run") as run, open_instance(project.config) as instance:
        for line in run.stdout:
            if " running " in line:
                break
        while not any(each.job_name == "everything" for each in instance.get_runs(started)):
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        run.wait()
        (dead,) = instance.get_runs(started)
    assert run_stale(project.config, CATALOGS).ok
    with open_instance(project.config) as instance:
        assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_runs_count(started) == 0


def test_a_lock_is_free_as_soon_as_its_process_is_killed(tmp_path):
    path = tmp_path / "run.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    lock = FileLock(path, "the store")
    assert lock.is_held()
    with pytest.raises(Locked, match=rf"the store is in use by the test, process {process.pid}, since .*Wait for it"):
        lock.acquire(wait_s=0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not lock.is_held()
    with lock.holding(who="me"):
        assert lock.is_held()
        assert "me, process" in lock.holder()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_at_once_and_leaves_nothing_failed(project, number):
    """In the middle of a training: one line, the shell's exit code, a canceled run, and no other asset started."""
    project.settings["finetune"] = {"seeds": 1, "steps": 5000, "batch_size": 2, "learning_rate": 1.0e-4}
    project.settings["arms"] = ["base", "random", "motive"]
    project.save()
    with project.started("run") as run:
        for line in run.stdout:
            if "finetune" in line and " steps" in line:
                break
        run.send_signal(number)
        asked = time.monotonic()
        err, _ = run.communicate(timeout=300)
    assert run.returncode == 128 + number
    assert time.monotonic() - asked < 20
    lines = [line for line in err.splitlines() if line.strip() and " steps" not in line]
    assert lines == ["motive: stopped; committed results are kept, and the next run continues from there"]
    with open_instance(project.config) as instance:
        statuses = [each.status.value for each in instance.get_runs()]
        assert statuses[0] == "CANCELED"
        assert "FAILURE" not in statuses
        assert not list((project.workspace.state / "runs").glob("*.lock"))
        project.settings["finetune"]["steps"] = 2
        project.save()
    assert project.motive("run", "--select", 'key:"finetuned_checkpoint/random"').code == 0
