"""What is damaged on disk is noticed by whoever reads it, counts as missing, and is made again."""

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from motive_pipeline.attribution.gradient_set import open_gradients
from motive_pipeline.attribution.influence_set import load_influence, open_influence
from motive_pipeline.errors import NotPublished
from motive_pipeline.storage.checking import check_store
from motive_pipeline.storage.rows import MissingRow, Row
from motive_pipeline.storage.sealed import Damaged, read_sealed, write_sealed
from motive_pipeline.storage.work_folders import finish_file, is_finished, load_work, save_work
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.storage.zarr_groups import open_group
from tests.curation_fixtures import clip_names, publish_gradients, publish_influence_matrix, unit_rows
from tests.storage.test_rows import damage

HOW = ["missing", "empty", "cut", "zeroed", "100"]


def publish(ws: Workspace, content: str = "a") -> Path:
    frame = pd.DataFrame({"clip_id": [content]})
    published = ws.publish(
        "curated_subset/motive",
        content=content,
        write=lambda folder: frame.to_parquet(folder / "subset.parquet"),
        started=time.time(),
        scores={("subsets", "motive"): frame.assign(arm="motive", rank=1)},
    )
    return published.folder


def reopened(ws: Workspace) -> Workspace:
    return Workspace(ws.config)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "zeroed", "0", "70", "90", "-2"])
def test_a_sealed_file_tells_when_it_was_cut_or_altered(tmp_path, how):
    file = tmp_path / "a.json"
    write_sealed(file, {"name": "é", "numbers": [1, 2]})
    assert read_sealed(file) == {"name": "é", "numbers": [1, 2]}
    assert json.loads(file.read_text(encoding="utf-8"))["numbers"] == [1, 2], "it is plain JSON"
    damage(file, how)
    with pytest.raises(FileNotFoundError if how == "missing" else Damaged):
        read_sealed(file)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "name", ["current.json", "publication.json", "data/subset.parquet", "rejects.parquet", "scores/subsets/motive.parquet"]
)
def test_a_damaged_file_of_a_publication_makes_it_count_as_not_published(workspace, caplog, name, how):
    folder = publish(workspace)
    file = folder.parent / name if name == "current.json" else folder / name
    damage(file, how)
    ws = reopened(workspace)
    with pytest.raises(NotPublished, match=r"curated_subset/motive.*motive run"):
        ws.published("curated_subset/motive").table("subset")
    assert not ws.has_published("curated_subset/motive")
    assert ws.losses == (1 if how in ("zeroed", "100") and name.endswith(".parquet") else 0)
    if not (name == "current.json" and how == "missing"):
        assert Path(name).name in caplog.text
        assert "All other results are kept" in caplog.text
    for again in (ws, reopened(workspace)):
        publish(again)
        assert again.published("curated_subset/motive").table("subset")["clip_id"].tolist() == ["a"]
        assert again.scores.query("SELECT clip_id FROM subsets").fetchall() == [("a",)]


def test_a_damaged_publication_is_remembered_where_it_cannot_be_marked(workspace, monkeypatch):
    folder = publish(workspace)
    damage(folder / "data" / "subset.parquet", "100")
    ws = reopened(workspace)

    def forbidden(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr("os.rename", forbidden)
    for _ in range(2):
        with pytest.raises(NotPublished, match=r"subset.parquet was altered"):
            ws.published("curated_subset/motive").table("subset")
    assert not ws.has_published("curated_subset/motive")


def test_a_file_is_hashed_once_in_a_process(workspace, monkeypatch):
    publish(workspace)
    ws = reopened(workspace)
    from motive_pipeline.storage import integrity

    integrity.forget_hashes()
    read = []
    real = integrity.digest_file
    monkeypatch.setattr(integrity, "digest_file", lambda path: read.append(path) or real(path))
    ws.published("curated_subset/motive")
    assert not read, "opening looks at names and sizes only"
    for _ in range(2):
        ws.published("curated_subset/motive").table("subset")
    assert sorted(path.name for path in read) == ["motive.parquet", "rejects.parquet", "subset.parquet"]


def publish_index(ws: Workspace) -> None:
    """``latents`` as an index of two rows in two commits."""
    store = ws.store("latents", {})
    refs = [
        store.append([Row(key=key, arrays={"latents": np.full(9, number, np.float32)})])[0]
        for number, key in enumerate(("one", "two"))
        if store.find(key) is None
    ]
    refs = [store.find(key) for key in ("one", "two")]
    frame = pd.DataFrame({"clip_id": ["c1", "c2"], "key": ["one", "two"], "content": [ref.content for ref in refs]})
    frame["store"] = f"latents/{ws.config.row_fingerprint('latents')}"
    ws.publish("latents", content="x", write=lambda folder: frame.to_parquet(folder / "index.parquet"), started=time.time())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_an_index_whose_rows_are_damaged_counts_as_not_published(workspace, how, ending):
    publish_index(workspace)
    store = workspace.store("latents", {})
    damage(next(store.segments.glob(f"*.{ending}")), how)
    ws = reopened(workspace)
    if ws.has_published("latents"):  # only a reader of the rows notices
        damaged = ws.store("latents", {})
        for key in ("one", "two"):
            with suppress(MissingRow):
                damaged.read(damaged.find(key), "latents")
        assert ws.losses == 1
    assert not ws.has_published("latents")
    publish_index(ws)
    assert ws.has_published("latents")
    assert reopened(ws).has_published("latents")
    assert check_store(reopened(ws)).problems == []


@pytest.mark.parametrize("how", ["missing", "100"])
def test_a_chunk_that_is_missing_or_altered_is_an_error(workspace, how):
    publish_gradients(workspace, "projected_gradients/motive", clip_names(9), unit_rows(9, 8))
    publish_influence_matrix(workspace, "motive", clip_names(3, 100), clip_names(9), np.ones((3, 9)))
    for asset, chunk, opened in (
        ("projected_gradients/motive", "gradient/c/1/0", lambda folder: open_gradients(folder, 8).rows()),
        ("influence_matrix/motive", "influence/c/0/1", lambda folder: list(open_influence(folder).blocks())),
    ):
        folder = workspace.published(asset).path
        damage(folder / chunk, how)
        with pytest.raises((Damaged, ValueError), match=r"lacks 1 of its \d+ chunks" if how == "missing" else "checksum"):
            opened(folder)
        ws = reopened(workspace)
        with pytest.raises(NotPublished, match=chunk.split("/")[0]):
            _ = ws.published(asset).path
    with pytest.raises(NotPublished):
        load_influence(reopened(workspace), "motive")


def test_published_arrays_are_plain_zarr_with_checksums_and_every_chunk(workspace):
    rows = np.zeros((9, 8), np.float32)
    publish_gradients(workspace, "projected_gradients/motive", clip_names(9), rows)
    group = zarr.open_group(workspace.published("projected_gradients/motive").path, mode="r")
    for _, array in group.arrays():
        assert [type(codec).__name__ for codec in array.compressors] == ["Crc32cCodec"]
        assert array.nchunks_initialized == array.nchunks, "chunks of zeros are written, too"
    assert np.isnan(group["gradient"].fill_value)
    assert np.isnan(group["grad_norm"].fill_value)
    assert group["clip_id"].dtype == np.uint8


def test_what_is_no_group_is_named(tmp_path):
    with pytest.raises(Damaged, match="cannot be opened as a Zarr group"):
        open_group(tmp_path)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["training.json", "files.json", "weights"])
def test_damaged_work_counts_as_missing(tmp_path, caplog, name, how):
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(range(200)))
    save_work(folder, "training.json", {"losses": [0.5] * 40})
    assert load_work(folder, "training.json") == {"losses": [0.5] * 40}
    damage(folder / name, how)
    assert load_work(folder, "training.json") is None
    assert name in caplog.text
    assert not folder.exists(), "it is made again"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["v.mp4", "v.json"])
def test_a_damaged_video_counts_as_missing(tmp_path, name, how):
    (tmp_path / "unfinished").write_bytes(bytes(range(200)))
    finish_file(tmp_path / "unfinished", tmp_path / "v.mp4")
    assert is_finished(tmp_path / "v.mp4")
    damage(tmp_path / name, how)
    assert not is_finished(tmp_path / "v.mp4")
    assert not (tmp_path / "v.mp4").exists()


def test_verify_finds_every_kind_of_damage_and_marks_it(workspace):
    publish_index(workspace)
    folder = publish(workspace)
    assert check_store(reopened(workspace)).problems == []
    damage(next(workspace.store("latents", {}).segments.glob("*.safetensors")), "100")
    damage(folder / "data" / "subset.parquet", "100")
    version = workspace.scores.version()
    damage(version / "rejects" / "_empty.parquet", "100")
    ws = reopened(workspace)
    checked = check_store(ws)
    assert len(checked.problems) == 3 or len(checked.problems) == 4
    text = "\n".join(checked.problems)
    for word in (".safetensors", "subset.parquet", "_empty.parquet"):
        assert word in text
    assert "count" in checked.summary()
    again = reopened(workspace)
    assert not again.has_published("curated_subset/motive")
    assert not again.has_published("latents")
    assert again.scores.version() is None
    publish_index(again)
    publish(again)
    assert check_store(reopened(workspace)).problems == []


def test_a_copied_root_is_whole(workspace, tmp_path, make_config):
    publish(workspace)
    shutil.copytree(workspace.root, tmp_path / "copy")
    again = Workspace(make_config(f"storage: {{root: {tmp_path / 'copy'}}}\nclips: {{source: demo}}\nqueries: {{source: demo}}\n"))
    assert check_store(again).problems == []
