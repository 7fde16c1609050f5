"""Rows that name windows of a file are clips of their own, from every kind of column; what is not a window is a reject."""

import csv
import json
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motive_pipeline.catalog import scan as scan_module
from motive_pipeline.catalog.catalog_clips import catalog_clips, require_unchanged
from motive_pipeline.catalog.changes import source_now
from motive_pipeline.catalog.rejects import publish_rejected
from motive_pipeline.catalog.scan import scan
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.catalog.watch import still_being_written
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.export.subset import export_subset
from motive_pipeline.files import hash_memory
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.latents.stage import LatentSet, publish_latents
from motive_pipeline.models.load import load_model
from motive_pipeline.report.lookup import find_clip, load_known_clips
from motive_pipeline.sources.configured import clip_source
from motive_pipeline.sources.layouts import LAYOUTS
from motive_pipeline.sources.window_columns import ALL_WINDOWS, WindowError, window_of_row
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.probe import probe
from tests.clip_fixtures import counting_frames, moving_square, project, which_frames, write_video
from tests.curation_fixtures import publish_table

FPS = 16
SETTINGS = {"fps": FPS, "num_frames": 9, "min_frames": 5, "max_reject_share": 0.9}


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """48 frames at 16 fps with B-frames and a key frame every 12; each shows which one it is."""
    folder = tmp_path_factory.mktemp("film")
    return write_video(
        folder / "long.mp4", counting_frames(48), fps=FPS, options={"g": "12", "keyint_min": "12", "bf": "2", "sc_threshold": "0"}
    )


@pytest.fixture
def clips(tmp_path, film) -> Path:
    (tmp_path / "clips").mkdir()
    shutil.copy(film, tmp_path / "clips" / "long.mp4")
    return tmp_path / "clips"


def workspace(folder: Path, source: str, **clips) -> Workspace:
    return project(folder, clips=SETTINGS | {"source": source, "path": "clips"} | clips)


def write_csv(file: Path, columns: list[str], rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([columns, *rows])


def shown(publication: Publication) -> dict[str, list[int]]:
    """Which frames of the film each clip shows, by caption."""
    rule = FrameRule(num_frames=9, min_frames=5, fps=float(FPS), width=64, height=48)
    frame = publication.table("catalog")
    return {row["caption"]: which_frames(read_clip(Path(row["path"]), rule).frames_THWC) for row in frame.to_dict("records")}


def rejected(publication: Publication) -> list[tuple[str, str]]:
    return sorted(publication.rejects()[["reason", "detail"]].itertuples(index=False, name=None))


WANTED = {"first": list(range(9)), "second": list(range(17, 26)), "third": list(range(34, 43))}
TIMES = ((0, 1.0625), (1.0625, 2.125), (2.125, 2.6875))
FRAMES = ((0, 17), (17, 34), (34, 43))


class TestColumns:
    @pytest.mark.parametrize(("columns", "cells"), [
        (("start", "end"), TIMES),
        (("start", "end"), (("0:00:00.000", "0:00:01.063"), ("0:00:01.063", "0:00:02.125"), ("00:02.125", "2.688"))),
        (("start_time", "end_time"), TIMES),
        (("start_frame", "end_frame"), FRAMES),
        (("start_frame", "end_frame"), (("0.0", "17.0"), ("17.0", "34.0"), (34, 43))),
        (("frame_idx",), (("0:17",), ("17:34",), ("34 : 43",))),
        (("frame_idx",), (("[0, 17]",), ('{"start": 17, "end": 34}',), ("(34, 43)",))),
        (("cut",), (("[0, 17]",), ("[17, 34]",), ("[34, 43]",))),
        (("timestamp",), (("['0:00:00.000', '0:00:01.063']",), ('["0:00:01.063", "0:00:02.125"]',), ("[['0:00:02.125', '0:00:02.688']]",))),
        (("timestamp",), (("[0, 1.0625]",), ("(1.0625, 2.125)",), ("[2.125, 2.6875]",))),
    ])  # fmt: skip
    def test_each_row_of_a_csv_is_a_clip_with_its_own_frames_and_caption(self, tmp_path, clips, columns, cells):
        rows = [["long.mp4", *window, caption] for window, caption in zip(cells, WANTED, strict=True)]
        write_csv(clips / "metadata.csv", ["video", *columns, "caption"], rows)
        publication = publish_clip_catalog(workspace(tmp_path, "csv"))
        assert shown(publication) == WANTED
        assert publication.rejects().empty
        frame = publication.table("catalog").set_index("caption").loc[list(WANTED)]
        assert frame["num_frames"].tolist() == [17, 17, 9]
        assert frame["duration_s"].tolist() == pytest.approx([1.0625, 1.0625, 0.5625], abs=0.001)
        assert frame["clip_id"].nunique() == 3
        assert [json.loads(names) for names in frame["sources"]] == [[Path(path).name] for path in frame["path"]]

    @pytest.mark.parametrize("values", [
        [{"start": a, "end": b} for a, b in TIMES],
        [{"start_frame": a, "end_frame": b} for a, b in FRAMES],
        [{"frame_idx": [a, b]} for a, b in FRAMES],
        [{"frame_idx": {"start": a, "end": b}} for a, b in FRAMES],
        [{"cut": [a, b]} for a, b in FRAMES],
        [{"timestamp": ["0:00:00", "0:00:01.063"]}, {"timestamp": [1.0625, 2.125]}, {"timestamp": [["0:00:02.125", "0:00:02.688"]]}],
    ])  # fmt: skip
    @pytest.mark.parametrize("source", ["json", "jsonl", "parquet"])
    def test_so_is_each_of_the_other_tables(self, tmp_path, clips, source, values):
        rows = [{"video": "long.mp4", "caption": caption} | window for window, caption in zip(values, WANTED, strict=True)]
        if source == "parquet":
            if "timestamp" in values[0]:
                rows = [row | {"timestamp": json.dumps(row["timestamp"])} for row in rows]
            pq.write_table(pa.Table.from_pylist(rows), clips / "t.parquet")
        else:
            text = json.dumps(rows) if source == "json" else "\n".join(map(json.dumps, rows))
            (clips / f"t.{source}").write_text(text)
        assert shown(publish_clip_catalog(workspace(tmp_path, source))) == WANTED

    def test_so_is_each_of_a_videofolder(self, tmp_path, clips):
        rows = [("long.mp4", a, b, caption) for (a, b), caption in zip(FRAMES, WANTED, strict=True)]
        write_csv(clips / "metadata.csv", ["file_name", "start_frame", "end_frame", "text"], rows)
        assert shown(publish_clip_catalog(workspace(tmp_path, "videofolder"))) == WANTED

    def test_open_sora_plan_cuts_frames(self, tmp_path, clips):
        rows = [{"path": "long.mp4", "cap": [caption], "cut": list(pair)} for pair, caption in zip(FRAMES, WANTED, strict=True)]
        rows[1] = {"path": "long.mp4", "cap": ["second"], "frame_idx": "17:34", "start": 0, "end": 1}
        rows.append({"path": "long.mp4", "cap": ["fourth"], "cut": "7"})
        (clips / "t.json").write_text(json.dumps(rows))
        publication = publish_clip_catalog(workspace(tmp_path, "open_sora_plan"))
        assert shown(publication) == WANTED
        assert rejected(publication) == [("bad_row", "entry 4 of t.json: its cut is not a window: '7'")]

    def test_panda_70m_lists_the_pieces_of_a_video_in_one_row(self, tmp_path, clips):
        stamps = "[['0:00:00.000', '0:00:01.063'], ['0:00:01.063', '0:00:02.125'], ['0:00:02.125', '0:00:02.688']]"
        rows = [["long.mp4", "u", stamps, "['first', 'second', 'third']", "[0.1, 0.2, 0.3]"]]
        rows.append(["long.mp4", "u", "[['0:00:00.000', '0:00:01.000'], ['0:00:01.000', '0:00:02.000']]", "['a', 'b', 'c']", ""])
        write_csv(clips / "t.csv", ["video", "url", "timestamp", "caption", "matching_score"], rows)
        publication = publish_clip_catalog(workspace(tmp_path, "csv"))
        assert shown(publication) == WANTED
        frame = publication.table("catalog").set_index("caption")
        assert json.loads(frame.at["second", "published"]) == {
            "url": "u",
            "timestamp": '["0:00:01.063", "0:00:02.125"]',
            "matching_score": 0.2,
        }
        assert rejected(publication) == [("bad_row", "line 3 of t.csv: it lists 2 windows and 3 texts in caption")]

    @pytest.mark.parametrize("source", sorted(set(LAYOUTS) - {"csv", "json", "jsonl", "parquet", "videofolder", "open_sora_plan"}))
    def test_no_other_layout_reads_them(self, source):
        assert LAYOUTS[source].windows == ()

    @pytest.mark.parametrize("values", [
        {}, {"start": "", "end": ""}, {"start": None, "end": None}, {"start": float("nan"), "end": float("nan")}, {"start": 3}, {"end": 3},
        {"timestamp": "2023-01-05 12:00"}, {"timestamp": 1672531200}, {"timestamp": None}, {"timestamp": ""}, {"frame_idx": 5}, {"frame_idx": "5"},
        {"cut": True}, {"cut": "false"}, {"cut": [None, None]}, {"start": "", "end": "", "cut": ""},
    ])  # fmt: skip
    def test_an_empty_column_is_no_window(self, values):
        assert window_of_row(values, ALL_WINDOWS) is None

    def test_an_empty_pair_leaves_the_word_to_the_next(self):
        window = window_of_row({"start": "", "end": "", "cut": [3, 9]}, ALL_WINDOWS)
        assert window is not None
        assert window.suffix == "#frames=3,9"
        window = window_of_row({"start": 1, "end": 2, "cut": [3, 9]}, ALL_WINDOWS)
        assert window is not None
        assert window.suffix == "#t=1,2"

    @pytest.mark.parametrize(("values", "words"), [
        ({"start": 1, "end": ""}, "one of them is missing"),
        ({"start": None, "end": 2}, "one of them is missing"),
        ({"start": "soon", "end": 2}, "'soon' is not a number"),
        ({"start": 2, "end": 1}, "ends at 1 and starts at 2"),
        ({"start": 1, "end": 1}, "ends at 1 and starts at 1"),
        ({"start": -1, "end": 1}, "starts before the video"),
        ({"start": True, "end": 2}, "'True' is not a number"),
        ({"start": 0, "end": float("inf")}, "'inf' is not a number"),
        ({"start": 0, "end": "1e300"}, "too large"),
        ({"start": "1:2:3:4", "end": 5}, "'1:2:3:4' is not a number or time"),
        ({"start": 0, "end": [1]}, "is not a number"),
        ({"start_frame": 1.5, "end_frame": 9}, "1.5 is not a frame number"),
        ({"start_frame": "0:01", "end_frame": 9}, "'0:01' is not a number"),
        ({"frame_idx": "a:b"}, "frame_idx is not a window: 'a:b'"),
        ({"frame_idx": "5:2"}, "ends at 2 and starts at 5"),
        ({"frame_idx": [1, 2, 3]}, "no pair of a start and an end"),
        ({"frame_idx": {"from": 1}}, "an object without start and end"),
        ({"cut": "[1, 2"}, "no list or object that can be read"),
        ({"cut": [[1, 2], [3, 4]]}, "no pair of a start and an end"),
        ({"timestamp": "['0:00:01', 'later']"}, "'later' is not a number"),
    ])  # fmt: skip
    def test_what_is_no_window_says_so(self, values, words):
        with pytest.raises(WindowError) as caught:
            window_of_row(values, ALL_WINDOWS)
        assert words in str(caught.value)

    def test_a_bad_window_is_a_bad_row_and_one_beyond_the_end_is_outside(self, tmp_path, clips):
        rows = [
            ["long.mp4", 0, 1, "good"],
            ["long.mp4", "x", 1, "bad"],
            ["long.mp4", 2.5, 3.5, "half"],
            ["long.mp4", 9, 10, "beyond"],
            ["long.mp4", "", "", "whole"],
        ]
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], rows)
        ws = workspace(tmp_path, "csv")
        publication = publish_clip_catalog(ws)
        assert sorted(publication.table("catalog")["caption"]) == ["good", "whole"]
        assert rejected(publication) == [
            ("bad_row", "line 3 of t.csv: its window in start and end (x, 1): 'x' is not a number"),
            ("window_outside", "the window from 2.5 to 3.5 s ends behind the end of the file, which has 3.00 s"),
            ("window_outside", "the window from 9 to 10 s ends behind the end of the file, which has 3.00 s"),
        ]
        paths = publication.rejects().set_index("reason").loc["window_outside", "path"]
        assert sorted(paths) == [f"{clips}/long.mp4#t=2.5,3.5", f"{clips}/long.mp4#t=9,10"]
        assert f"{clips}/long.mp4#t=9,10" in (publish_rejected(ws).path / "rejected.html").read_text()


class TestIdentity:
    def test_files_without_window_keep_their_ids_paths_and_rows(self, tmp_path, clips):
        write_video(clips / "a#t=1,2.mp4", counting_frames(20), fps=FPS)
        rows = [["long.mp4", "", "", "one"], ["a#t=1,2.mp4", "", "", "two"], ["long.mp4", 0, 3, "all of it"]]
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], rows)
        publication = publish_clip_catalog(workspace(tmp_path, "csv"))
        frame = publication.table("catalog").set_index("caption")
        for caption, name, num_frames in (("one", "long.mp4", 48), ("two", "a#t=1,2.mp4", 20)):
            assert frame.at[caption, "clip_id"] == digest_file(clips / name)[:16]
            assert frame.at[caption, "path"] == str(clips / name)
            assert frame.at[caption, "sources"] == json.dumps([name])
            assert frame.at[caption, "num_frames"] == num_frames
        assert frame.at["all of it", "clip_id"] != frame.at["one", "clip_id"], "a window that is the whole file is still a window"
        assert publication.facts["windows of files"] == publication.facts["windows that overlap"] == 1

    def test_two_rows_with_one_window_are_one_clip(self, tmp_path, clips):
        shutil.copy(clips / "long.mp4", clips / "same.mp4")
        rows = [["long.mp4", 0, 1, "a"], ["long.mp4", "0.0", "0:01", "b"], ["same.mp4", "0.0000", "1.00000", "c"], ["same.mp4", 1, 2, "d"]]
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], rows)
        publication = publish_clip_catalog(workspace(tmp_path, "csv"))
        frame = publication.table("catalog").set_index("caption")
        assert sorted(frame.index) == ["a", "d"]
        assert json.loads(frame.at["a", "sources"]) == ["long.mp4#t=0,1", "long.mp4#t=0,1", "same.mp4#t=0,1"]
        assert json.loads(frame.at["a", "other_captions"]) == ["b", "c"]
        assert publication.facts["rows that name a file again"] == 1

    def test_overlaps_are_counted(self, tmp_path, clips):
        rows = [["long.mp4", 0, 1, "a"], ["long.mp4", 0.5, 1.5, "b"], ["long.mp4", 1.5, 2.5, "c"]]
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], rows)
        facts = publish_clip_catalog(workspace(tmp_path, "csv")).facts
        assert (facts["windows of files"], facts["windows that overlap"]) == (3, 2)

    @pytest.mark.parametrize("is_large", [True, False])
    def test_a_file_is_hashed_once_for_all_of_its_windows(self, tmp_path, clips, monkeypatch, is_large):
        """Even when it is so young that its hash is not kept."""
        rows = [["long.mp4", number / 10, number / 10 + 1, "a"] for number in range(20)]
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], rows)
        read, real = [], hash_memory.hash_file
        monkeypatch.setattr(scan_module, "hash_file", lambda file: read.append(file) or real(file))
        monkeypatch.setattr(scan_module, "_LARGE_BYTES", 10 if is_large else 10**9)
        ws = workspace(tmp_path, "csv")
        found = scan(clip_source(ws), HashMemory(ws.state), threads=2)
        assert read == [MediaFile(path=clips / "long.mp4")]
        assert (found.num_hashed, len(found.files), len({file.clip_id for file in found.files})) == (1, 20, 20)
        assert found.facts()["gigabytes"] == round((clips / "long.mp4").stat().st_size / 1e9, 3)

    def test_the_check_for_changes_hashes_a_file_once_too(self, tmp_path, clips, monkeypatch):
        monkeypatch.setattr(hash_memory, "SETTLED_AFTER_NS", -1)
        rows = [["long.mp4", number / 10, number / 10 + 1, "a"] for number in range(20)]
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], rows)
        ws = workspace(tmp_path, "csv")
        publish_clip_catalog(ws)
        memory = HashMemory(tmp_path / "another")
        found = catalog_clips(ws, "clip")
        for clip in found:
            require_unchanged(clip, memory)
        assert memory.num_hashed == 1
        write_video(clips / "long.mp4", counting_frames(47), fps=FPS)
        with pytest.raises(RejectRow, match="changed_since_catalog"):
            require_unchanged(found[0], memory)

    def test_changes_of_windows_are_told_by_name(self, tmp_path, clips):
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], [["long.mp4", 0, 1, "a"], ["long.mp4", 1, 2, "b"]])
        ws = workspace(tmp_path, "csv")
        publish_clip_catalog(ws)
        before = source_now(ws, "clip")
        assert before.changes == []
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], [["long.mp4", 0, 1, "a"], ["long.mp4", 1, 2.5, "b"]])
        after = source_now(ws, "clip")
        assert after.changes == ["1 clip added (long.mp4#t=1,2.5)", "1 clip removed (long.mp4#t=1,2)"]
        assert after.version != before.version

    def test_a_file_in_the_making_is_named_once_without_its_windows(self, tmp_path, clips):
        shutil.copytree(clips, tmp_path / "queries")
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], [["long.mp4", 0, 1, "a"], ["long.mp4", 9, 10, "b"]])
        ws = workspace(tmp_path, "csv")
        later_s = (clips / "t.csv").stat().st_mtime + 5
        assert still_being_written(ws, settle_s=1.0, now_s=later_s) == [], "a window beyond the end is no sign of half a copy"
        assert clips / "long.mp4" in still_being_written(ws, settle_s=100.0, now_s=later_s)


class TestPlaces:
    @pytest.mark.parametrize("kind", ["tar", "zip", "deflated"])
    def test_rows_name_windows_of_members(self, tmp_path, clips, kind):
        film = clips / "long.mp4"
        if kind == "tar":
            with tarfile.open(clips / "a.tar", "w") as packed:
                packed.add(film, "long.mp4")
        else:
            with zipfile.ZipFile(clips / "a.zip", "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as packed:
                packed.write(film, "long.mp4")
        film.unlink()
        rows = [["long.mp4", *window, caption] for window, caption in zip(TIMES, WANTED, strict=True)]
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], rows)
        publication = publish_clip_catalog(workspace(tmp_path, "csv"))
        assert shown(publication) == WANTED
        assert f"{clips}/a.{kind if kind == 'tar' else 'zip'}!/long.mp4#t=0,1.0625" in publication.table("catalog")["path"].tolist()

    def test_rows_name_windows_of_their_own_bytes(self, tmp_path, clips):
        data = (clips / "long.mp4").read_bytes()
        rows = [{"mp4": data, "start": a, "end": b, "caption": caption} for (a, b), caption in zip(TIMES, WANTED, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows), clips / "t.parquet")
        (clips / "long.mp4").unlink()
        publication = publish_clip_catalog(workspace(tmp_path, "parquet"))
        assert shown(publication) == WANTED
        assert sorted(publication.table("catalog")["path"])[1] == f"{clips}/t.parquet!/mp4/00000002#t=1.0625,2.125"


@pytest.fixture
def windowed(tmp_path) -> Workspace:
    """Catalogs of clips and queries: three windows of one film each, with different motion."""
    for role in ("clips", "queries"):
        seed = 1 if role == "clips" else 2
        write_video(tmp_path / role / "long.mp4", moving_square(40, step_px=0.7, seed=seed), fps=FPS, options={"g": "12", "bf": "2"})
        rows = [["long.mp4", f"0:00:0{number * 0.75}", (number + 1) * 0.75, caption] for number, caption in enumerate(WANTED)]
        write_csv(tmp_path / role / "t.csv", ["video", "start_time", "end_time", "caption"], rows)
    section = {"source": "csv", "path": "clips"}
    ws = project(tmp_path, clips=SETTINGS | section, queries={"source": "csv", "path": "queries"})
    publish_clip_catalog(ws)
    publish_query_catalog(ws)
    return ws


class TestStages:
    def test_the_model_sees_the_frames_of_the_window(self, windowed):
        publication = publish_latents(windowed, role="clip")
        assert publication.counts.computed == 3
        found, model = LatentSet(windowed, "clip"), load_model(windowed.config.model, threads=1)
        whole = read_clip(
            windowed.config.clips.path / "long.mp4", FrameRule(num_frames=37, min_frames=5, fps=float(FPS), width=64, height=48)
        )
        catalog = windowed.published("clip_catalog").table("catalog").set_index("caption")
        for start, caption in zip((0, 12, 24), WANTED, strict=True):
            latents, _ = found.get(catalog.at[caption, "clip_id"])
            assert latents.equal(model.encode_video(whole.frames_THWC[start : start + 9])), caption
        assert publish_latents(windowed, role="query").counts.computed == 3
        assert publish_latents(windowed, role="clip").counts.reused == 3

    def test_a_window_that_is_too_short_is_rejected_by_name(self, tmp_path, clips):
        write_csv(clips / "t.csv", ["video", "start", "end", "caption"], [["long.mp4", 0, 1, "a"], ["long.mp4", 1, 1.2, "b"]])
        ws = workspace(tmp_path, "csv")
        publish_clip_catalog(ws)
        (row,) = publish_latents(ws, role="clip").rejects().to_dict("records")
        assert (row["reason"], row["path"]) == ("too_short", f"{clips}/long.mp4#t=1,1.2")
        assert row["detail"].startswith("the window from 1 to 1.2 s: 4 frames at 16 fps")

    def test_an_export_holds_the_frames_of_the_window_and_originals_are_refused(self, tmp_path, windowed):
        catalog = windowed.published("clip_catalog").table("catalog").set_index("caption")
        ids = catalog.loc[list(WANTED), "clip_id"].tolist()
        publish_table(windowed, "latents", "index", {"clip_id": ids})
        publish_table(windowed, "motion_masks", "index", {"clip_id": ids, "motion_magnitude_px": [1.5] * 3})
        publish_table(windowed, "curated_subset/full", "subset", {"clip_id": ids, "rank": range(1, 4)})
        with pytest.raises(MotiveError, match=r"3 of 3 clips are windows of longer files \(.*long.mp4#t=0,0.75, .*--videos window"):
            export_subset(windowed, "full", tmp_path / "out", "videofolder", videos="original")
        assert not (tmp_path / "out").exists()
        export_subset(windowed, "full", tmp_path / "out", "videofolder")
        manifest = json.loads((tmp_path / "out" / "motive" / "MANIFEST.json").read_text())
        rule = FrameRule.of(windowed.config)
        for clip, start in zip(manifest["clips"], (0, 0.75, 1.5), strict=True):
            assert clip["source"] == f"{windowed.config.clips.path}/long.mp4#t={start:g},{start + 0.75:g}"
            written = read_clip(tmp_path / "out" / "videos" / clip["file"], rule).frames_THWC.mean(axis=3)
            assert probe(tmp_path / "out" / "videos" / clip["file"]).num_frames == len(written) == 9
            scored = read_clip(Path(clip["source"]), rule).frames_THWC.mean(axis=3)
            assert abs(written - scored).max(axis=(1, 2)).mean() < abs(written[1:] - scored[:-1]).max(axis=(1, 2)).mean() / 2
        assert "3 of the clips are windows of longer files" in (tmp_path / "out" / "motive" / "README.md").read_text()

    def test_explain_finds_a_window_by_its_path_and_a_film_names_its_windows(self, windowed):
        known = load_known_clips(windowed)
        catalog = windowed.published("clip_catalog").table("catalog").set_index("caption")
        path, clip_id = catalog.at["second", "path"], catalog.at["second", "clip_id"]
        assert find_clip(known, path).clip_id == clip_id
        moved = windowed.config.clips.path / "moved.mp4"
        shutil.copy(windowed.config.clips.path / "long.mp4", moved)
        assert find_clip(known, f"{moved}#t=0.75,1.5").clip_id == clip_id
        with pytest.raises(MotiveError, match="matches 3 clips"):
            find_clip(known, str(windowed.config.clips.path / "long.mp4"))
        with pytest.raises(MotiveError, match="matches 6 clips"):
            find_clip(known, "long.mp4")


def test_the_table_of_the_catalog_is_as_before_without_windows(tmp_path):
    write_video(tmp_path / "clips" / "a.mp4", counting_frames(12))
    publication = publish_clip_catalog(project(tmp_path))
    assert not [name for name in publication.facts if "window" in name]
    assert isinstance(publication.table("catalog"), pd.DataFrame)
