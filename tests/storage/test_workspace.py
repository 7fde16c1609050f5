"""Publications: immutable, found by name, equal content keeps its data version."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from motive_pipeline.errors import NotPublished
from motive_pipeline.storage.rows import Row, RowRef
from motive_pipeline.storage.workspace import Reject, RowCounts, Workspace


def publish(workspace: Workspace, content: str, **more):
    frame = pd.DataFrame({"clip_id": [content]})
    return workspace.publish(
        "eligible_pool",
        content=content,
        write=lambda folder: frame.to_parquet(folder / "pool.parquet"),
        started=time.time(),
        **more,
    )


def test_what_was_published_is_read_back(workspace):
    published = publish(workspace, "a", facts={"clips": 1}, counts=RowCounts(computed=3))
    again = Workspace(workspace.config).published("eligible_pool")
    assert again == published
    assert again.table("pool")["clip_id"].tolist() == ["a"]
    assert again.facts == {"clips": 1}
    assert again.counts.computed == 3


def test_equal_content_keeps_the_data_version_and_going_back_finds_the_old_folder(workspace):
    first = publish(workspace, "a")
    second = publish(workspace, "b")
    third = publish(workspace, "a")
    assert first.data_version == third.data_version != second.data_version
    assert first.path == third.path


def test_other_rejects_are_another_data_version(workspace):
    reject = Reject(path="p", clip_id="c", stage="latents", reason="too_short", detail="5 frames")
    assert publish(workspace, "a").data_version != publish(workspace, "a", rejects=[reject]).data_version
    assert workspace.published("eligible_pool").rejects()["reason"].tolist() == ["too_short"]
    assert workspace.scores.query("SELECT reason FROM rejects").fetchall() == [("too_short",)]


def test_an_asset_never_published_says_what_to_run(workspace):
    with pytest.raises(NotPublished, match=r"latents has not been materialized.*motive run"):
        workspace.published("latents")


@pytest.mark.parametrize("part", [".", "data", "data/pool.parquet", "publication.json", "rejects.parquet"])
def test_a_publication_of_which_a_part_has_gone_is_none_and_is_made_anew(workspace, part):
    first = publish(workspace, "a")
    gone = first.folder / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(NotPublished, match=r"eligible_pool: its published folder .* is missing or not whole.*motive run"):
        workspace.published("eligible_pool")
    assert publish(workspace, "a") == first
    assert first.table("pool")["clip_id"].tolist() == ["a"]


def test_the_data_folder_holds_what_was_written_and_nothing_else(workspace):
    published = publish(workspace, "a", preview=lambda path: path.write_bytes(b"PNG"))
    assert [path.name for path in published.path.iterdir()] == ["pool.parquet"]
    assert sorted(path.name for path in published.folder.iterdir()) == ["data", "preview.png", "publication.json", "rejects.parquet"]
    assert published.preview is not None
    assert published.preview.read_bytes() == b"PNG"
    assert publish(workspace, "b").preview is None


def test_a_failed_write_leaves_what_was_there(workspace):
    before = publish(workspace, "a")

    def broken(folder):
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        workspace.publish("eligible_pool", content="b", write=broken, started=time.time())
    assert workspace.published("eligible_pool") == before
    assert sorted(p.name for p in before.folder.parent.iterdir()) == sorted([before.folder.name, "current.json"])


def test_runs_grow_by_a_row_for_each_publication(workspace):
    publish(workspace, "a", counts=RowCounts(computed=5))
    publish(workspace, "a", counts=RowCounts(reused=5))
    assert workspace.scores.query("SELECT asset, rows_computed, rows_reused FROM runs ORDER BY started_at").fetchall() == [
        ("eligible_pool", 5, 0),
        ("eligible_pool", 0, 5),
    ]


def test_provenance_names_settings_inputs_and_libraries(workspace):
    publish(workspace, "a")
    published = workspace.publish(
        "voted_ranking/motive",
        content="r",
        write=lambda folder: None,
        started=time.time(),
    )
    saved = published.provenance
    assert saved["settings"]["vote"] == {"percentile": 90.0, "rule": "vote"}
    assert saved["upstream"] == {
        "eligible_pool": workspace.published("eligible_pool").data_version,
        "influence_matrix/motive": None,  # not published here
        "projected_gradients/motive": None,
    }
    assert saved["libraries"]["torch"] != "not installed"


def test_a_store_that_was_read_first_is_written_with_its_dimensions(workspace):
    fingerprint = workspace.config.row_fingerprint("gradient")
    read_first = workspace.store_at(f"gradient/{fingerprint}")
    store = workspace.store("gradient", {"gradient": ("proj",)})
    assert store is read_first, "one index for all who read"
    ref = store.append([Row(key="one", arrays={"gradient": np.ones(3, np.float32)})])[0]
    with safe_open(store.segments / f"{ref.commit}.safetensors", "np") as written:
        assert json.loads(written.metadata()["dimensions"]) == {"gradient": ["row", "proj"]}
    assert isinstance(Workspace(workspace.config).store_at(f"gradient/{fingerprint}").find("one"), RowRef)
