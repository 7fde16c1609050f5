"""Every file below the folder of a source is counted, and what happened to each kind is told."""

import io
import json
import logging
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.checks import checks
from motive_pipeline.catalog.accounting import accounted, num_lost
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.storage.workspace import Publication
from tests.clip_fixtures import moving_square, project, write_project, write_video
from tests.files.test_archive import zipped


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("films")
    return [write_video(folder / f"{n}.mp4", moving_square(step_px=1 + n, seed=n)).read_bytes() for n in range(3)]


def written(folder: Path, contents: dict[str, bytes]) -> None:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def catalog(folder: Path, **settings) -> Publication:
    return publish_clip_catalog(project(folder, clips={"max_reject_share": 0.95} | settings))


def balanced(publication: Publication) -> dict[str, int]:
    figures = accounted(publication)
    assert figures["files"] == sum(figures.values()) - figures["files"], figures
    return figures


def test_a_folder_with_everything_in_it_is_accounted_for_by_kind(tmp_path, films, caplog):
    contents = {"a.mp4": films[0], "a.txt": b"one", "deep/b.mkv": films[1], "deep/again.mp4": films[0], "deep/b.json": b'{"prompt": "two"}'}
    contents |= {
        "bad.mp4": b"<html>",
        "x.jpg": b"1",
        "y.jpg": b"2",
        "notes.pdf": b"3",
        ".DS_Store": b"4",
        "LICENSE": b"5",
        "film.webp": b"6",
    }
    contents |= {"more.zip": b"7", "more.tar.gz": b"8", "lonely.txt": b"9", ".git/config": b"not looked into"}
    written(tmp_path / "clips", contents)
    (tmp_path / "clips" / "gone.mp4").symlink_to("nowhere")
    with caplog.at_level(logging.INFO, logger="motive_pipeline.catalog.source_listing"):
        publication = catalog(tmp_path)
    assert balanced(publication) == {"files": 16, "clips": 2, "merged duplicates": 1, "rejects": 2, "not videos": 11}
    told = publication.facts["files by kind"]
    assert told.startswith("5 videos or rows, 2 captions; passed over: 2 .jpg, ")
    for kind in ("1 .pdf", "1 .webp", "1 hidden files", "1 without an ending", "1 .txt", "1 archives (.zip;", "1 archives (.gz;"):
        assert kind in told
    assert publication.facts["without caption"] == 0
    assert caplog.messages[-1] == f"clips.path: {told}; 2 clips, 0 of them without a caption"


def test_archives_and_their_members_are_accounted_for(tmp_path, films):
    written(tmp_path / "clips", {"readme.md": b"x", "cut.7z": b"7z\xbc\xaf\x27\x1c", "loose.mp4": films[2]})
    zipped(tmp_path / "clips" / "a.zip", {"a.mp4": films[0], "a.txt": b"said", "a.png": b"x", "__MACOSX/._a.mp4": b"x", "bad.mp4": b"x"})
    with tarfile.open(tmp_path / "clips" / "b.tar", "w") as opened:
        info = tarfile.TarInfo("b.mp4")
        info.size = len(films[1])
        opened.addfile(info, io.BytesIO(films[1]))
    publication = catalog(tmp_path, source="zip")
    assert balanced(publication) == {"files": 11, "clips": 2, "merged duplicates": 0, "rejects": 2, "not videos": 7}
    told = publication.facts["files by kind"]
    assert told.startswith("4 videos or rows, 1 captions, 2 archives; passed over: ")
    assert "1 .mp4" in told, "a loose video beside archives is not read by source zip, and that is told"
    assert "1 files of macOS" in told
    assert publication.facts["without caption"] == 1


def test_rows_of_tables_and_cells_of_parquet_files_are_accounted_for(tmp_path, films):
    rows = [("a.mp4", "video"), ("a.mp4", "video"), ("gone.mp4", "video"), ("p.jpg", "image"), ("", "video"), ("/etc/hosts", "video")]
    lines = [json.dumps({"video": name, "caption": f"c{n}", "type": kind}) for n, (name, kind) in enumerate(rows)]
    contents = {"t.jsonl": "\n".join([*lines, "{broken"]).encode(), "a.mp4": films[0], "orphan.mp4": films[1], "p.jpg": b"x", "q.jpg": b"x"}
    written(tmp_path / "clips", contents)
    publication = catalog(tmp_path, source="jsonl")
    assert balanced(publication) == {"files": 10, "clips": 1, "merged duplicates": 1, "rejects": 6, "not videos": 2}
    assert publication.facts["files by kind"] == "8 videos or rows, 1 tables; passed over: 1 .jpg"
    shutil.rmtree(tmp_path / "clips")
    (tmp_path / "clips" / "data").mkdir(parents=True)
    for split, film in zip(("train", "test"), films, strict=False):
        pq.write_table(pa.table({"video": [film, None], "caption": ["x", "y"]}), tmp_path / f"clips/data/{split}-00000-of-00001.parquet")
    publication = catalog(tmp_path, source="parquet")
    assert balanced(publication) == {"files": 6, "clips": 2, "merged duplicates": 0, "rejects": 2, "not videos": 2}
    assert publication.facts["several splits in one tree"].startswith("test: 1, train: 1; all of them are used.")


def test_every_file_of_a_content_without_a_caption_is_a_reject_where_the_policy_says_so(tmp_path, films):
    written(tmp_path / "clips", {"a.mp4": films[0], "b.mp4": films[0], "c.mp4": films[1], "c.txt": b"said"})
    publication = catalog(tmp_path, policies={"no_caption": "reject"})
    assert balanced(publication) == {"files": 4, "clips": 1, "merged duplicates": 0, "rejects": 2, "not videos": 1}
    assert [Path(path).name for path in publication.rejects()["path"]] == ["a.mp4", "b.mp4"]


def test_splits_in_one_tree_are_told_and_categories_are_not(tmp_path, films):
    written(tmp_path / "clips", {"train/a.mp4": films[0], "train/b.mp4": films[1], "Test/c.mp4": films[2]})
    assert catalog(tmp_path).facts["several splits in one tree"].startswith("Test: 1, train: 2; all of them are used.")
    written(tmp_path / "other" / "clips", {"cats/a.mp4": films[0], "dogs/b.mp4": films[1]})
    assert "several splits in one tree" not in catalog(tmp_path / "other").facts
    written(tmp_path / "one" / "clips", {"train/a.mp4": films[0], "train/b.mp4": films[1]})
    assert "several splits in one tree" not in catalog(tmp_path / "one").facts


def test_queries_and_held_out_queries_are_counted_each_once(tmp_path):
    write_project(tmp_path)
    shutil.move(tmp_path / "held_out", tmp_path / "queries" / "held")
    ws = project(tmp_path, queries={"held_out_path": "queries/held"})
    facts = publish_query_catalog(ws).facts
    assert (facts["files"], facts["files by kind"]) == (3, "2 videos or rows; 1 videos or rows")


def test_the_check_in_dagster_fails_when_a_file_is_lost(tmp_path, films):
    written(tmp_path / "clips", {"a.mp4": films[0], "b.txt": b"x"})
    ws = project(tmp_path)
    publication = publish_clip_catalog(ws)
    from assets.checks import _accounted

    passed, figures = _accounted(ws, publication)
    assert passed
    assert figures == {"files": 2, "clips": 1, "merged duplicates": 0, "rejects": 0, "not videos": 1}
    publication.facts["files"] += 1
    assert not _accounted(ws, publication)[0]
    names = [key.name for check in checks(ws.config) for key in check.check_keys]
    assert "every_file_is_accounted_for" in names


def test_files_that_became_nothing_are_counted():
    figures = {"files": 9, "clips": 4, "merged duplicates": 1, "rejects": 1, "not videos": 1}
    assert num_lost(figures) == 2
    assert num_lost(figures | {"not videos": 3}) == 0
