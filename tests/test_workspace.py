"""Publications: immutable, found by name, equal content keeps its data version."""

import time

import pandas as pd
import pytest

from motive_pipeline.errors import NotPublished
from motive_pipeline.storage.workspace import Reject, RowCounts, Workspace


def publish(workspace: Workspace, content: str, **more):
    frame = pd.DataFrame({"clip_id": [content]})
    return workspace.publish(
        "eligible_pool",
        stage="eligible_pool",
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


def test_a_folder_that_has_gone_is_not_published(workspace):
    import shutil

    shutil.rmtree(publish(workspace, "a").path)
    assert not workspace.has_published("eligible_pool")


def test_a_failed_write_leaves_what_was_there(workspace):
    before = publish(workspace, "a")

    def broken(folder):
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        workspace.publish("eligible_pool", stage="eligible_pool", content="b", write=broken, started=time.time())
    assert workspace.published("eligible_pool") == before
    assert [p.name for p in before.path.parent.iterdir() if p.name.startswith(".tmp")] == []


def test_runs_grow_by_a_row_for_each_publication(workspace):
    publish(workspace, "a", counts=RowCounts(computed=5))
    publish(workspace, "a", counts=RowCounts(reused=5))
    assert workspace.scores.query("SELECT asset, rows_computed, rows_reused FROM runs ORDER BY started_at").fetchall() == [
        ("eligible_pool", 5, 0),
        ("eligible_pool", 0, 5),
    ]


def test_provenance_names_settings_inputs_and_libraries(workspace):
    import json

    publish(workspace, "a")
    published = workspace.publish(
        "voted_ranking/motive",
        stage="voted_ranking",
        content="r",
        write=lambda folder: None,
        started=time.time(),
        upstream=["eligible_pool"],
    )
    saved = json.loads((published.path / "publication.json").read_text())["provenance"]
    assert saved["settings"]["vote"] == {"percentile": 90.0}
    assert saved["upstream"] == {"eligible_pool": workspace.published("eligible_pool").data_version}
    assert saved["libraries"]["torch"] != "not installed"
