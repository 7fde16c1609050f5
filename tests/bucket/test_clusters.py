"""Ray with root and clips in a bucket: jobs of a cluster elsewhere, and workers on two nodes. The machines share nothing else."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket
from motive_pipeline.demo.dataset import write_demo
from tests.bucket.servers import Server, used
from tests.graph_project import SETTINGS, Project
from tests.ray_head import node_with_another_disk, ray_head

ADDRESS = Address("s3", "weed", "jobs")


@pytest.fixture(scope="module")
def clips(weed: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the folder with ``clips``, ``queries`` and ``held_out``."""
    folder = write_demo(tmp_path_factory.mktemp("demo") / "demo", num_clips=9, num_queries=2, num_held_out=1)
    with used(weed):
        bucket = Bucket(ADDRESS)
        for part in ("clips", "queries", "held_out"):
            for file in (folder / part).iterdir():
                bucket.put(f"data/{part}/{file.name}", file)
    return f"{ADDRESS.url}/data"


@pytest.fixture(scope="module")
def job_server(weed: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with used(weed), ray_head(HOME=str(tmp_path_factory.mktemp("home_of_the_cluster"))) as head:
        yield head.job_server


@pytest.fixture
def keys(weed: Server) -> Iterator[None]:
    with used(weed):
        yield


def project_at(folder: Path, clips: str, root: str, engine: dict, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose state is in the home folder, of which the job's machine has another one."""
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return Project(
        folder,
        {
            **SETTINGS,
            "storage": {"root": f"{ADDRESS.url}/{root}", "state": f"~/state_of_{root}"},
            "clips": {"source": "folder", "path": f"{clips}/clips", "num_frames": 17, "width": 64, "height": 64},
            "queries": {"source": "folder", "path": f"{clips}/queries", "held_out_path": f"{clips}/held_out"},
            "arms": ["base", "motive"],
            "engine": {"threads": 1, **engine},
        },
    )


def made(project: Project) -> dict[str, str | None]:
    """The data versions of all assets that hold no path and no setting."""
    workspace = project.workspace
    return {
        asset: workspace.data_version(asset)
        for asset in workspace.assets()
        if asset.split("/")[0] in ("latents", "projected_gradients", "voted_ranking", "finetuned_checkpoint", "generated_videos")
    }


@pytest.mark.slow
@pytest.mark.usefixtures("keys")
def test_jobs_publish_into_the_bucket_what_a_run_on_one_machine_does(clips: str, job_server: str, tmp_path: Path, monkeypatch):
    wanted = '+key:"finetuned_checkpoint/motive"'
    here = project_at(tmp_path / "here", clips, "here", {}, monkeypatch)
    here.run("--select", wanted)
    expected = made(here)
    assert len(expected) == 4

    far = project_at(tmp_path / "far", clips, "far", {"kind": "ray", "address": job_server}, monkeypatch)
    outcome = far.run("--select", wanted)
    assert outcome.assets["latents"]["rows_computed"] == 9
    assert "worker 1" in outcome.out  # the job's log, with its workers
    assert made(far) == expected
    runs = far.workspace.scores.query("SELECT DISTINCT run_id FROM runs").fetchall()
    assert len(runs) == 1
    assert far.motive("run", "--select", wanted).err.count("nothing is stale") == 1
    assert not [each.key for page in Bucket(ADDRESS).pages("far") for each in page if ".job-" in each.key]


@pytest.mark.slow
@pytest.mark.usefixtures("keys")
def test_what_a_user_can_mend_is_told_through_the_bucket(clips: str, job_server: str, tmp_path: Path, monkeypatch):
    engine = {"kind": "ray", "address": job_server, "workers": {"cpus": 64, "wait_s": 2}}
    project = project_at(tmp_path / "far", clips, "told", engine, monkeypatch)
    outcome = project.motive("run", "--select", "+latents")
    assert outcome.code == 1
    assert "latents failed: engine.workers: 0 of at least 1 workers were ready after 2 s. A worker needs 64 CPU" in outcome.err
    assert not [each.key for page in Bucket(ADDRESS).pages("told") for each in page if ".job-" in each.key]

    prompts = tmp_path / "far" / "prompts.csv"
    prompts.write_text("prompt\na ball bounces\n")
    project.set("generate.prompts", str(prompts))
    project.set("engine.workers", {})
    project.run("--select", "+latents")
    project.set("generate.prompts", "~/prompts.csv")
    outcome = project.motive("run", "--select", '+key:"generated_videos/base"')
    assert outcome.code == 1
    assert (
        "generated_videos/base: a file that motive.yaml names is not the same on the job's machine as on that of the run (generate.prompts"
        in outcome.err
    )


@pytest.mark.slow
@pytest.mark.usefixtures("keys")
def test_a_stopped_run_gives_the_root_back_and_its_job_writes_no_more(clips: str, job_server: str, tmp_path: Path, monkeypatch):
    project = project_at(tmp_path / "far", clips, "stopped", {"kind": "ray", "address": job_server}, monkeypatch)
    with project.started("run", "--select", "+latents") as run:
        assert run.stdout is not None
        assert any("connecting to the cluster" in line for line in run.stdout)
        run.send_signal(signal.SIGTERM)
        rest, _ = run.communicate(timeout=120)
    assert run.returncode == 143, rest
    began = time.monotonic()
    project.set("engine", {"threads": 1})
    assert project.run("--select", "+latents").assets["latents"]["status"] == "computed"
    assert time.monotonic() - began < 50, "it did not wait for the lease to run out"


@pytest.mark.slow
@pytest.mark.usefixtures("keys")
def test_workers_on_two_nodes_fetch_what_they_need_from_the_bucket(clips: str, tmp_path: Path, monkeypatch):
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    wanted = '+key:"projected_gradients/motive"'
    here = project_at(tmp_path / "here", clips, "alone", {}, monkeypatch)
    here.run("--select", wanted)

    with ray_head(num_cpus=1) as head:
        engine = {"kind": "ray", "address": head.address, "workers": {"least": 2, "most": 2}}
        project = project_at(tmp_path / "nodes", clips, "nodes", engine, monkeypatch)
        state, of_second = project.workspace.state, tmp_path / "disk_of_the_second_node"
        of_second.mkdir()
        with node_with_another_disk(head, state, of_second):
            outcome = project.run("--select", wanted)
    nodes = set(re.findall(r"worker \d+ on \S+ \((\w+)\) is ready", outcome.err))
    assert len(nodes) == 2
    assert made(project) == made(here)
    copies = [len(list(disk.rglob("bucket_clips/**/*.mp4"))) for disk in (state, of_second)]
    assert copies[1] > 0, "the second node has fetched its clips"
    assert list((of_second / "root" / "published").rglob("publication.json")), "and has a copy of the root of its own"
