"""Rows whose names are spelled in another way than the files', and tables that a strict reader refuses."""

import datetime
import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motive_pipeline.errors import MotiveError
from motive_pipeline.sources import json_stream as json_stream_module
from motive_pipeline.sources.configured import build_source
from motive_pipeline.sources.protocol import BadEntry, SourceEntry
from motive_pipeline.sources.table_reader import read_table
from motive_pipeline.sources.table_row import BadRow, TableRow
from tests.clip_fixtures import project
from tests.files.test_archive import zipped


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def rows(folder: Path, *named: object, file: str = "t.jsonl", **more) -> None:
    (folder / file).write_text("".join(json.dumps({"video": name, "caption": f"says {name}"} | more) + "\n" for name in named))


def entries(folder: Path, source: str = "jsonl", **settings) -> list[SourceEntry | BadEntry]:
    clips = project(folder.parent / f"{folder.name}-project", clips={"source": source, "path": str(folder), **settings}).config.clips
    return list(build_source(clips, path=clips.path, table=None, key="clips.path").entries())


def found(listed: list[SourceEntry | BadEntry]) -> dict[str, str | None]:
    return {entry.relative: entry.caption for entry in listed if isinstance(entry, SourceEntry)}


def bad(listed: list[SourceEntry | BadEntry]) -> dict[str, tuple[str, str]]:
    return {entry.relative: (entry.reason, entry.detail) for entry in listed if isinstance(entry, BadEntry)}


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("c0.MP4", "c0.mp4"),
        ("Sub/C0.mp4", "sub/c0.mp4"),
        ("sub/c0.mp4", "sub\\c0.mp4"),
        ("my clip.mp4", "my%20clip.mp4"),
        ("c0.mp4", " c0.mp4 "),
        (unicodedata.normalize("NFD", "caf\u00e9.mp4"), unicodedata.normalize("NFC", "caf\u00e9.mp4")),
        (unicodedata.normalize("NFC", "\u00c9t\u00e9.mp4"), unicodedata.normalize("NFD", "\u00e9t\u00e9.mp4")),
        ("a.mp4", "a"),
        ("1000.mkv", 1000),
        ("sub/a.b.MOV", "sub/a.b"),
        ("./c0.mp4", ".\\C0"),
    ],
)
def test_a_name_in_another_spelling_finds_the_one_file_that_it_means(tmp_path, file, named):
    write(tmp_path, file, "other.mp4")
    rows(tmp_path, named)
    listed = entries(tmp_path)
    assert found(listed) == {str(Path(file)): " ".join(f"says {named}".split())}
    assert {name: reason for name, (reason, _) in bad(listed).items()} == {"other.mp4": "orphan_file"}


def test_an_exact_name_comes_before_a_near_one_whatever_the_order_of_the_rows(tmp_path):
    write(tmp_path, "a.mp4", "A.mp4", "100%20.mp4", "100 .mp4")
    rows(tmp_path, "A.mp4", "a.mp4", "100%20.mp4", "100 .mp4")
    assert found(entries(tmp_path)) == {name: f"says {name}" for name in ("a.mp4", "A.mp4", "100%20.mp4", "100 .mp4")}


def test_a_file_that_a_row_names_exactly_is_not_given_to_another_spelling(tmp_path):
    write(tmp_path, "c0.mp4", "c1.mp4")
    rows(tmp_path, "C0.mp4", "c0.mp4", "c1.mp4")
    listed = entries(tmp_path)
    assert found(listed) == {"c0.mp4": "says c0.mp4", "c1.mp4": "says c1.mp4"}
    assert bad(listed) == {"C0.mp4": ("missing_file", "line 1 of t.jsonl: no file C0.mp4; found c0.mp4")}


def test_where_several_files_match_the_message_names_them(tmp_path):
    write(tmp_path, "c0.MP4", "C0.mp4", "a.mp4", "a.mov", "x/deep.mkv")
    rows(tmp_path, "c0.mp4", "a", "deep.mp4", "nothing.mp4")
    told = bad(entries(tmp_path))
    assert told["c0.mp4"] == ("missing_file", "line 1 of t.jsonl: no file c0.mp4; found C0.mp4, c0.MP4")
    assert told["a"] == ("missing_file", "line 2 of t.jsonl: no file a; found a.mov, a.mp4")
    assert told["deep.mp4"] == ("missing_file", "line 3 of t.jsonl: no file deep.mp4; found x/deep.mkv")
    assert told["nothing.mp4"] == ("missing_file", "line 4 of t.jsonl: no file nothing.mp4")


def test_members_of_archives_and_layouts_that_join_by_name_are_found_in_any_spelling_too(tmp_path):
    (tmp_path / "z").mkdir()
    zipped(tmp_path / "z" / "v.zip", {"in\\A.MP4": b"1", "in/b.mp4": b"2"})
    rows(tmp_path / "z", "in/a.mp4", "in/b")
    assert found(entries(tmp_path / "z")) == {"v.zip!/in\\A.MP4": "says in/a.mp4", "v.zip!/in/b.mp4": "says in/b"}
    write(tmp_path / "o", "deep/x.MP4", "deep/y.mp4")
    (tmp_path / "o" / "OpenVid-1M.csv").write_text("video,caption\nx.mp4,one\nz.mp4,none\n")
    listed = entries(tmp_path / "o", "openvid")
    assert found(listed) == {"deep/x.MP4": "one"}
    assert bad(listed)["z.mp4"][0] == "missing_file"


def test_simpletuners_ids_need_no_setting(tmp_path):
    write(tmp_path, "7.mp4")
    pq.write_table(pa.table({"id": [7], "caption": ["seven"]}), tmp_path / "meta.parquet")
    assert found(entries(tmp_path, "simpletuner")) == {"7.mp4": "seven"}


def test_a_path_through_a_link_to_the_same_folder_is_inside(tmp_path):
    clips = write(tmp_path / "clips", "real/a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "link").symlink_to(clips)
    (clips / "again").symlink_to("real")
    write(tmp_path, "out.mp4")
    rows(clips, f"{tmp_path}/link/b.mp4", "again/a.mp4", f"{tmp_path}/link/../out.mp4", "/mnt/elsewhere/c.mp4")
    listed = entries(clips)
    assert found(listed) == {"b.mp4": f"says {tmp_path}/link/b.mp4", "real/a.mp4": "says again/a.mp4"}
    told = bad(listed)
    assert told[f"{tmp_path}/link/../out.mp4"][0] == "outside_folder"
    assert told["/mnt/elsewhere/c.mp4"][0] == "outside_folder"
    assert told["/mnt/elsewhere/c.mp4"][1].endswith("; found c.mp4")


def test_rows_of_pictures_are_not_videos_and_do_not_count_and_other_types_are_what_the_publisher_says(tmp_path):
    write(tmp_path, "a.mp4", "b.jpg", "c.mp4")
    lines = [("a.mp4", "Video"), ("b.jpg", "image"), ("gone.png", "Image"), ("c.mp4", "real world")]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"video": name, "caption": "x", "type": kind}) + "\n" for name, kind in lines))
    listed = entries(tmp_path)
    assert list(found(listed)) == ["a.mp4", "c.mp4"]
    refused = [(entry.relative, entry.reason, entry.counts) for entry in listed if isinstance(entry, BadEntry)]
    assert refused == [("b.jpg", "not_a_video", False), ("gone.png", "not_a_video", False)]


NUMBERS = [1.5, float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("block", [1, 7, 2**16])
@pytest.mark.parametrize("form", ["list", "object", "lines"])
def test_nan_and_infinity_in_json_are_null_and_texts_that_say_so_stay(tmp_path, form, block, monkeypatch):
    monkeypatch.setattr(json_stream_module, "_BLOCK_BYTES", block)
    said = ['NaN "NaN\\', "Infinity, -Infinity", "plain", ""]
    values = {f"c{number}.mp4": {"caption": text, "score": NUMBERS[number]} for number, text in enumerate(said)}
    listed = [{"path": name, **value} for name, value in values.items()]
    text = {"list": json.dumps(listed, indent=1), "object": json.dumps(values), "lines": "\n".join(map(json.dumps, listed))}[form]
    (tmp_path / "t.json").write_text("\ufeff" + text if form == "list" else text, encoding="utf-8")
    read = [row.values for row in read_table(tmp_path / "t.json") if isinstance(row, TableRow)]
    assert [row["caption"] for row in read] == said
    assert read[0]["score"] == 1.5
    if form != "lines":
        assert [row["score"] for row in read[1:]] == [None, None, None]


@pytest.mark.parametrize(
    "text", ['[{"a": NaN}, {"b": "cut', '[{"a": NaN', '[{"a": nan}]', '[{"a": NaNN}]', "[NaN", '[{"a": 1' + "0" * 5000 + "}]"]
)
def test_json_that_is_broken_stays_an_error(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(MotiveError, match=r"t\.json: not whole, or no JSON"):
        list(read_table(tmp_path / "t.json"))


def test_objects_within_objects_without_end_cost_their_row(tmp_path):
    (tmp_path / "t.json").write_text('[{"path": "a.mp4", "x": ' + "[" * 5000 + "]" * 5000 + '}, {"path": "b.mp4"}]')
    first, second = read_table(tmp_path / "t.json")
    assert isinstance(first, BadRow)
    assert isinstance(second, TableRow)


def test_texts_that_parquet_holds_as_bytes_are_texts_and_videos_stay_videos(tmp_path):
    names, video = ["a.mp4", "\u00fc.mp4", "c.mp4"], b"\0\0\0\x18ftypmp42" + bytes(100)
    write(tmp_path, *names)
    columns = {"video": pa.array([name.encode() for name in names], pa.large_binary()), "caption": [b"one", None, "drei \u00fc\n".encode()]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=1)
    assert found(entries(tmp_path, "parquet")) == {"a.mp4": "one", "\u00fc.mp4": None, "c.mp4": "drei \u00fc"}
    pq.write_table(pa.table({"video": [video, None, video], "caption": [b"one", b"caf\xe9", b"three"]}), tmp_path / "t.parquet")
    listed = entries(tmp_path, "parquet")
    assert found(listed) == {"t.parquet!/video/00000001": None, "t.parquet!/video/00000002": None, "t.parquet!/video/00000003": None}
    pq.write_table(pa.table({"video": [video, None, video], "caption": [b"one", b"two", b"three"]}), tmp_path / "t.parquet")
    assert set(found(entries(tmp_path, "parquet")).values()) == {"one", "two", "three"}


def test_a_text_as_bytes_behind_the_first_ones_that_is_no_utf8_costs_its_row(tmp_path):
    pq.write_table(pa.table({"path": [f"{n}.mp4" for n in range(20)], "caption": [b"fine"] * 19 + [b"caf\xe9"]}), tmp_path / "t.parquet")
    read = list(read_table(tmp_path / "t.parquet"))
    assert [row.detail for row in read if isinstance(row, BadRow)] == ["not valid UTF-8"]
    assert len(read) == 20


def test_a_date_outside_the_calendar_costs_its_row(tmp_path):
    when = pa.array([0, 2**40], pa.timestamp("s"))
    pq.write_table(pa.table({"path": ["a.mp4", "b.mp4"], "when": when}), tmp_path / "t.parquet")
    first, second = read_table(tmp_path / "t.parquet")
    assert isinstance(first, TableRow)
    assert first.values["when"] == datetime.datetime(1970, 1, 1)
    assert isinstance(second, BadRow)


def test_a_parquet_file_whose_pages_are_damaged_is_an_error_that_names_it(tmp_path):
    pq.write_table(pa.table({"path": [f"{n}.mp4" for n in range(500)]}), tmp_path / "t.parquet", use_dictionary=False)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[4:200] = bytes(196)
    (tmp_path / "t.parquet").write_bytes(bytes(data))
    with pytest.raises(MotiveError, match=r"t\.parquet"):
        list(read_table(tmp_path / "t.parquet"))


@pytest.mark.parametrize("before", range(-4, 1))
def test_a_nan_over_the_edge_of_a_block_is_seen(tmp_path, before):
    head = '[{"path": "a.mp4", "score": '
    (tmp_path / "t.json").write_text(" " * (2**20 + before - len(head)) + head + "NaN}]")
    assert [row.values for row in read_table(tmp_path / "t.json") if isinstance(row, TableRow)] == [{"path": "a.mp4", "score": None}]


def test_an_archive_that_cannot_be_read_beside_a_table_is_told_and_does_not_count(tmp_path):
    write(tmp_path, "a.mp4")
    (tmp_path / "old.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    rows(tmp_path, "a.mp4")
    refused = [(entry.relative, entry.reason, entry.counts) for entry in entries(tmp_path) if isinstance(entry, BadEntry)]
    assert refused == [("old.7z", "unsupported_archive", False)]
