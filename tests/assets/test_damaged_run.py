"""``motive run`` after damage on disk: what is damaged is made again in the same run, and ``motive verify`` says what was wrong."""

from pathlib import Path

import pytest

from tests.assets.test_automation import clip_file, make_project
from tests.storage.test_full_disk import MASKS
from tests.storage.test_rows import damage

pytestmark = pytest.mark.slow


def segment(project, stage: str) -> Path:
    """A segment of the only row store of a stage."""
    return next(project.config.storage.root.glob(f"rows/{stage}/*/segments/*.safetensors"))


def test_damage_is_mended_in_the_run_that_meets_it_and_verify_names_it(tmp_path):
    project = make_project(tmp_path)
    project.run("--select", MASKS)
    whole = project.motive("verify")
    assert whole.code == 0, whole.out + whole.err
    assert whole.out.startswith("nothing is wrong: 2 publications and")

    # an input of a stale asset is altered
    damage(project.workspace.published("clip_catalog").data_folder / "catalog.parquet", "100")
    project.set("motion.floor_px", 4.0)
    found = project.run("--select", MASKS)
    assert {name: run["status"] for name, run in found.assets.items()} == {
        "clip_catalog": "computed",  # what was damaged counts as not published, so there was no version to compare with
        "motion_masks": "computed",
    }
    assert found.assets["motion_masks"]["rows_computed"] == 6
    assert "catalog.parquet was altered" in found.err
    assert "All other results are kept" in found.err

    # rows that a stage finds and reads are altered
    damage(segment(project, "clip_catalog"), "100")
    clip_file(tmp_path / "clips", 50)
    found = project.run("--select", MASKS)
    assert found.assets["clip_catalog"]["status"] == "computed"
    assert found.assets["motion_masks"]["rows_computed"] == 1
    assert "its rows count as missing and are computed again" in found.err

    # nothing is stale, and only `verify` looks
    damage(segment(project, "motion_masks"), "100")
    assert {run["status"] for run in project.run("--select", MASKS).assets.values()} == {"unchanged"}
    verified = project.motive("verify")
    assert verified.code == 1
    assert ".safetensors is cut or altered" in verified.out
    assert "count" in verified.out.splitlines()[-1]
    mended = project.run("--select", MASKS)
    assert mended.assets["motion_masks"]["rows_computed"] > 0
    assert project.motive("verify").code == 0
    assert {run["status"] for run in project.run("--select", MASKS).assets.values()} == {"unchanged"}
