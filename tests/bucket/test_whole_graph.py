"""The whole graph with its root in a bucket of a real S3 server: the same data as on disk, also after kills, and no key anywhere."""

import shutil
from pathlib import Path

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket
from tests.bucket.servers import SECRET, Server, used
from tests.crash import end_state, kill_once
from tests.graph_project import SETTINGS, Project

STATE = {"state": "motive_state"}
FEW_ARMS = {**SETTINGS, "arms": ["base", "random", "motive"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The one folder that every run uses: catalogs hold absolute paths."""
    return tmp_path_factory.mktemp("graph") / "project"


def fresh(place: Path, root: str) -> Project:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return Project(place, {**FEW_ARMS, "storage": {"root": root, **STATE}})


@pytest.fixture(scope="module")
def on_disk(place: Path) -> dict[str, str]:
    """The end of an undisturbed run whose root is local, at the very place of the working copy."""
    project = fresh(place, "motive_state/root")
    project.run()
    return end_state(project)


def different(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    return [name for name in expected if found.get(name) != expected[name]]


def files_with(secret: str, *folders: Path) -> list[Path]:
    return [file for folder in folders for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


@pytest.mark.slow
def test_a_run_in_a_bucket_gives_the_data_of_a_run_on_disk_and_another_machine_finds_all_of_it(
    weed: Server, place: Path, on_disk, tmp_path: Path
):
    with used(weed):
        project = fresh(place, "s3://weed/whole")
        first = project.run()
        assert different(end_state(project), on_disk) == []
        assert project.motive("run").err.count("nothing is stale") == 1

        bucket = Bucket(Address("s3", "weed", "whole"))
        for page in bucket.pages():
            for each in page:
                (tmp_path / "objects" / each.key).parent.mkdir(parents=True, exist_ok=True)
                bucket.download(each.key, tmp_path / "objects" / each.key, each.size)
        (tmp_path / "said.txt").write_text(first.out + first.err)
        assert files_with("rejected_clips", tmp_path / "objects"), "the search finds what is there"
        assert files_with(SECRET, place, tmp_path) == [], "a key was written"

        shutil.rmtree(place / "motive_state")
        assert project.sql("SELECT count(*) AS n FROM ranking")[0]["n"] > 0, "another machine, with nothing of its own"
        assert different(end_state(project), on_disk) == []
        again = project.run()
        assert (
            sum(
                each["rows_computed"]
                for name, each in again.assets.items()
                if name.startswith(("latents", "projected", "finetuned", "generated"))
            )
            == 0
        )
        assert different(end_state(project), on_disk) == []


@pytest.mark.slow
def test_kills_at_any_point_cost_nothing_that_was_committed(weed: Server, place: Path, on_disk):
    with used(weed):
        project = fresh(place, "s3://weed/killed")
        hit = [kill_once(project, level, delay_s) for level, delay_s in ((0, 0.3), (0, 1.2), (1, 0.6), (0, 0.9), (2, 0.2), (1, 1.1))]
        assert sum(each is not None for each in hit) >= 4
        project.run()
        assert different(end_state(project), on_disk) == []
        shutil.rmtree(place / "motive_state")
        assert different(end_state(project), on_disk) == [], "the bucket has all of it"


@pytest.mark.slow
def test_a_run_that_is_killed_on_one_machine_goes_on_on_another(weed: Server, place: Path, on_disk):
    with used(weed):
        project = fresh(place, "s3://weed/moved")
        assert kill_once(project, 3, 0.5) is not None
        shutil.rmtree(place / "motive_state")
        refused = project.motive("run")
        assert refused.code == 1
        assert "is in use by motive run, process" in refused.err
        Bucket(Address("s3", "weed", "moved")).delete(["run.lease.json"])  # a minute later
        project.run()
        assert different(end_state(project), on_disk) == []


@pytest.mark.slow
def test_a_run_in_a_bucket_on_the_workers_of_a_cluster_gives_the_data_of_a_run_on_disk(weed: Server, place: Path, on_disk):
    with used(weed):
        project = fresh(place, "s3://weed/cluster")
        project.set("engine", {"kind": "ray", "address": "local", "threads": 1})
        outcome = project.run()
        assert "worker 1: gradients: " in outcome.err
        assert "worker 1: finetune" not in outcome.err  # it leaves files, and a worker may be elsewhere
        assert different(end_state(project), on_disk) == ["data version eval_report"]  # which names the settings
