"""Assets as jobs of a Ray cluster that the run's machine is not part of (``engine.address: http://...``)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from motive_pipeline.cli import main
from tests.graph_project import SETTINGS, Project
from tests.ports import free_port
from tests.ray_head import ray_head


@pytest.fixture(scope="module")
def job_server() -> Iterator[str]:
    with ray_head() as head:
        yield head.job_server


@pytest.fixture
def project(tmp_path, job_server) -> Project:
    project = Project(tmp_path, SETTINGS)
    project.set("engine", {"kind": "ray", "address": job_server, "threads": 1})
    return project


@pytest.mark.slow
def test_a_job_publishes_what_the_run_itself_would(project, tmp_path_factory):
    here = Project(tmp_path_factory.mktemp("here"), SETTINGS)
    here.run("--select", "+latents")
    outcome = project.run("--select", "+latents")
    assert outcome.assets["latents"]["rows_computed"] == 18
    assert project.workspace.data_version("latents") == here.workspace.data_version("latents")
    assert "worker 1" in outcome.out  # the job's log, with its workers
    assert not list(project.workspace.root.glob(".job-*"))
    assert not list(project.workspace.root.glob(".cluster-*"))


@pytest.mark.slow
def test_what_a_user_can_mend_is_told_as_without_a_job(project):
    project.set("engine.workers", {"cpus": 64, "wait_s": 2})
    outcome = project.motive("run", "--select", "+latents")
    assert outcome.code == 1
    assert "latents failed: engine.workers: 0 of at least 1 workers were ready after 2 s. A worker needs 64 CPU" in outcome.err


@pytest.mark.slow
def test_a_stopped_run_ends_its_job(project):
    with project.started("run", "--select", "+latents") as run:
        for line in run.stdout:
            if "connecting to the cluster" in line:
                run.send_signal(signal.SIGTERM)
                break
        run.communicate(timeout=60)
    assert run.returncode == 143
    deadline = time.monotonic() + 20
    while jobs_of(project) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert jobs_of(project) == []


def jobs_of(project: Project) -> list[int]:
    """The processes of jobs that work on the project."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"stage" in words and str(project.file).encode() in words:
            found.append(int(file.parent.name))
    return found


def test_a_job_whose_run_was_killed_ends_itself(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import threading, time
            from pathlib import Path
            from assets import job_body

            job_body.PATIENCE_S = 1.0
            threading.Thread(target=job_body._end_with, args=(Path({str(tmp_path)!r}) / "alive",), daemon=True).start()
            print("begun", flush=True)
            time.sleep(60)
            """
        )
    )
    (tmp_path / "alive").write_text("0")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "begun\n"
        for number in range(4):
            time.sleep(0.5)
            (tmp_path / "alive").write_text(str(number))
        assert job.poll() is None
        assert job.wait(timeout=15) == 1


def test_a_person_who_types_the_command_of_jobs_is_told_what_to_type(capsys):
    assert main(["stage", "latents", "--run", "x"]) == 1
    assert "motive stage is for jobs that a run submits" in (said := capsys.readouterr().err)
    assert "motive run --select '+key:\"latents\"'" in said


@pytest.mark.slow
def test_no_job_server_is_said(tmp_path):
    project = Project(tmp_path, SETTINGS)
    project.set("engine", {"kind": "ray", "address": f"http://127.0.0.1:{free_port()}", "threads": 1})
    outcome = project.motive("run", "--select", "+latents")
    assert outcome.code == 1
    assert "latents failed: engine.address: the job server at http://127.0.0.1:" in outcome.err
    assert "does not answer" in outcome.err
