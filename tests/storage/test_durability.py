"""A power cut at any point: what was committed or published before is whole, and what was not is absent or whole."""

import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from motive_pipeline.config import parse_config
from motive_pipeline.errors import NotPublished
from motive_pipeline.storage import atomic
from motive_pipeline.storage.merging import merge
from motive_pipeline.storage.rows import Row, RowRef, RowStore
from motive_pipeline.storage.work_folders import finish_file, is_finished, load_work, save_work
from motive_pipeline.storage.workspace import Workspace
from tests.power_cut import Disk, recorded


@pytest.fixture
def after_cuts(tmp_path, monkeypatch):
    """Runs an action on a folder and, for the folder as every possible power cut leaves it, a check."""

    def run(folder: Path, action, check) -> int:
        numbers = itertools.count()
        (tmp_path / "cuts").mkdir(exist_ok=True)

        def cut(disk: Disk) -> None:
            for all_names in (False, True):
                found = disk.rebuild(tmp_path / "cuts" / str(next(numbers)), all_names=all_names)
                check(found)
                atomic.remove(found)

        with recorded(folder, monkeypatch, cut):
            action()
        return next(numbers)

    return run


def row(number: int) -> Row:
    return Row(key=f"k{number}", arrays={"g": np.full(50 + number % 2, number, np.float32), "n": np.int64(number)})


def test_committed_rows_survive_a_power_cut_at_any_point(tmp_path, after_cuts):
    (tmp_path / "root").mkdir()
    committed: set[str] = set()
    turns = itertools.count()

    def action() -> None:
        store = RowStore(tmp_path / "root" / "s")
        for first in range(0, 18, 2):
            store.append([row(first), row(first + 1)])
            committed.update((f"k{first}", f"k{first + 1}"))
        assert merge(store)
        store.append([row(18)])
        committed.add("k18")

    def check(found: Path) -> None:
        store = RowStore(found / "s")
        store.refresh()
        assert committed <= set(store.keys()), "a committed row has gone"
        assert len(store) % 2 == 0 or len(store) == 19, "half a batch is there"
        for key in list(store.keys()):
            ref = store.find(key)
            assert isinstance(ref, RowRef)
            assert (store.read(ref, "g") == int(key[1:])).all()
        if next(turns) % 7 == 0:
            store.append([row(100)])
            assert isinstance(store.find("k100"), RowRef)

    assert after_cuts(tmp_path / "root", action, check) > 100
    assert len(committed) == 19


def open_at(root: Path) -> Workspace:
    return Workspace(
        parse_config(f"storage: {{root: {root}}}\nclips: {{source: demo}}\nqueries: {{source: demo}}\n", root.parent / "motive.yaml")
    )


def publish(ws: Workspace, content: str) -> None:
    frame = pd.DataFrame({"clip_id": [content]})
    ws.publish(
        "curated_subset/motive",
        content=content,
        write=lambda folder: frame.to_parquet(folder / "subset.parquet"),
        started=time.time(),
        scores={("subsets", "motive"): frame.assign(arm="motive", rank=1)},
        preview=lambda path: path.write_bytes(b"PNG"),
    )


@pytest.mark.slow
def test_a_publication_and_its_scores_survive_a_power_cut_at_any_point(tmp_path, after_cuts):
    (tmp_path / "root").mkdir()
    done: list[str] = []
    turns = itertools.count()

    def action() -> None:
        ws = open_at(tmp_path / "root")
        for content in ("first", "second", "first"):
            publish(ws, content)
            done.append(content)

    def check(found: Path) -> None:
        ws = open_at(found)
        allowed = [*done[-1:], *["first", "second", "first"][len(done) : len(done) + 1]]
        try:
            published = ws.published("curated_subset/motive")
        except NotPublished:
            assert not done, "what was published has gone"
        else:
            assert published.table("subset")["clip_id"].tolist()[0] in allowed
        ws.restore_scores()
        piece = ws.scores.piece("subsets", "motive")
        assert not done if piece is None else piece["clip_id"].tolist()[0] in allowed
        assert not list(ws.scores.damages())
        assert not list(ws.damages())
        if next(turns) % 23:
            return
        publish(ws, "again")
        assert ws.published("curated_subset/motive").table("subset")["clip_id"].tolist() == ["again"]
        assert ws.scores.query("SELECT clip_id FROM subsets").fetchall() == [("again",)]

    assert after_cuts(tmp_path / "root", action, check) > 100


def test_finished_work_survives_a_power_cut_at_any_point(tmp_path, after_cuts):
    (tmp_path / "root").mkdir()
    done: list[str] = []

    def action() -> None:
        with atomic.new_folder(tmp_path / "root" / "training") as temp:
            (temp / "pipeline" / "transformer").mkdir(parents=True)
            (temp / "pipeline" / "transformer" / "weights").write_bytes(b"w" * 1000)
            save_work(temp, "training.json", {"losses": [1.0]})
        done.append("training")
        atomic.make_folder(tmp_path / "root" / "videos" / "a")
        (tmp_path / "root" / "videos" / "a" / "unfinished").write_bytes(b"v" * 1000)
        finish_file(tmp_path / "root" / "videos" / "a" / "unfinished", tmp_path / "root" / "videos" / "a" / "v.mp4")
        done.append("video")

    def check(found: Path) -> None:
        record = load_work(found / "training", "training.json")
        assert record in ([{"losses": [1.0]}] if "training" in done else [None, {"losses": [1.0]}])
        if record is not None:
            assert (found / "training" / "pipeline" / "transformer" / "weights").read_bytes() == b"w" * 1000
        finished = is_finished(found / "videos" / "a" / "v.mp4")
        assert finished or "video" not in done
        if finished:
            assert (found / "videos" / "a" / "v.mp4").read_bytes() == b"v" * 1000

    assert after_cuts(tmp_path / "root", action, check) > 20
