"""Every layout in which data sets and trainers keep clips goes through the catalog; what does not match is a row in ``rejects``."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from motive_pipeline.attribution.stage import publish_gradients
from motive_pipeline.catalog import scan as scan_module
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.errors import ConfigError, GateFailed, MotiveError, RejectRow
from motive_pipeline.files import hash_memory, media_file, parquet_column
from motive_pipeline.files.hash_memory import ID_DIGITS, HashMemory
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.sources.configured import clip_source
from motive_pipeline.sources.protocol import BadEntry, SourceEntry
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.workspace import Publication
from tests.clip_fixtures import moving_square, project, write_video

NAMES = ("one", "-two (2)", "drei.drei")
CAPTIONS = ("a red ball", 'it\'s "so", <b>bold</b>', "None")


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> list[Path]:
    """Four small films of different content."""
    folder = tmp_path_factory.mktemp("films")
    return [write_video(folder / f"{n}.mp4", moving_square(step_px=1 + n, seed=n)) for n in range(4)]


@pytest.fixture
def clips(tmp_path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path / "clips"


def place(film: Path, *parts) -> Path:
    target = Path(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(film, target)
    return target


def catalogued(folder: Path, source: str, **settings) -> Publication:
    path = {"path": "clips"} if (folder / "clips").exists() and "path" not in settings else {}
    return publish_clip_catalog(project(folder, clips={"source": source, "max_reject_share": 0.9, **path, **settings}))


def captions(publication: Publication) -> list[str]:
    return sorted(publication.table("catalog")["caption"])


def listed_captions(folder: Path, source: str) -> list[str | None]:
    """The captions of a source by themselves: no video is opened, and a bad entry fails."""
    ws = project(folder, clips={"source": source, "path": "clips"})
    entries = [entry for entry in clip_source(ws).entries() if not (isinstance(entry, BadEntry) and entry.reason == "orphan_file")]
    assert all(isinstance(entry, SourceEntry) for entry in entries), entries
    return sorted((entry.caption for entry in entries if isinstance(entry, SourceEntry)), key=str)


def reasons(publication: Publication) -> list[str]:
    return sorted(publication.rejects()["reason"])


def details(publication: Publication) -> str:
    return " | ".join(publication.rejects()["detail"])


def write_csv(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(file, index=False)


def write_lines(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(file: Path, value) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def rows(path_column: str, caption_column: str, template: str = "{}.mp4", **more) -> list[dict]:
    return [{path_column: template.format(name), caption_column: text} | more for name, text in zip(NAMES, CAPTIONS, strict=True)]


def plain(films: list[Path], folder: Path, below: str = "", sidecar: Callable[[Path, str], None] | None = None) -> None:
    for film, name, text in zip(films, NAMES, CAPTIONS, strict=False):
        video = place(film, folder, below, f"{name}.mp4")
        if sidecar:
            sidecar(video.with_name(f"{name}"), text)


def txt(stem: Path, text: str) -> None:
    Path(f"{stem}.txt").write_text(text, encoding="utf-8")


def packed(films: list[Path], file: Path, *, names=NAMES, below: str = "", stored: bool = True, texts=None, inner: str = "") -> Path:
    """A zip, or a tar where ``file`` ends in .tar, of the films and perhaps captions beside them."""
    members = {f"{inner}{name}.mp4": film.read_bytes() for name, film in zip(names, films, strict=False)}
    members |= {f"{inner}{name}.txt": text.encode() for name, text in zip(names, texts or (), strict=False)}
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".tar":
        with tarfile.open(file, "w") as opened:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                opened.addfile(info, io.BytesIO(data))
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as opened:
            for name, data in members.items():
                opened.writestr(name, data)
    return file


def layout_folder(films, f):
    plain(films, f, "deep", txt)


def layout_csv(films, f):
    plain(films, f, "v")
    write_csv(f / "table.csv", rows("path", "caption", "v/{}.mp4"))


def layout_json(films, f):
    plain(films, f)
    write_json(f / "anything.json", rows("video_path", "prompt"))


def layout_jsonl(films, f):
    plain(films, f)
    write_lines(f / "anything.jsonl", rows("video", "text"))


def layout_parquet(films, f):
    plain(films, f)
    table = pa.Table.from_pylist(rows("file", "description"))
    pq.write_table(table.append_column("bytes", pa.array([b"x"] * 3)), f / "train.parquet")


def layout_videofolder(films, f):
    plain(films, f, "train")
    write_csv(f / "train" / "metadata.csv", rows("file_name", "caption"))


def layout_zip(films, f):
    packed(films, f / "sub" / "a.zip", texts=CAPTIONS, inner="inner/")


def layout_webdataset(films, f):
    members = {f"{n:05d}": (film, text) for n, (film, text) in enumerate(zip(films, CAPTIONS, strict=False))}
    for shard, keys in (("shard-000000.tar", ["00000", "00001"]), ("shard-000001.tar", ["00002"])):
        packed([members[k][0] for k in keys], f / shard, names=keys, texts=[members[k][1] for k in keys], inner="./")


def layout_video2dataset(films, f):
    def sidecar(stem, text):
        write_json(Path(f"{stem}.json"), {"caption": text, "status": "success", "key": "1", "error_message": None})

    plain(films, f, "00000", sidecar)


def layout_openvid(films, f):
    packed(films[:1], f / "OpenVid_part0.zip", inner="OpenVid/part0/")
    whole = packed(films[1:3], f / "whole.zip", names=NAMES[1:]).read_bytes()
    (f / "whole.zip").unlink()
    for part, data in (("aa", whole[:4000]), ("ab", whole[4000:])):
        (f / f"OpenVid_part1_part{part}").write_bytes(data)
    more = {"aesthetic score": 5.1, "motion score": 2.5, "camera motion": "pan_left", "frame": 9, "fps": 30.0, "seconds": 0.3}
    write_csv(f / "data" / "train" / "OpenVid-1M.csv", rows("video", "caption", **more))


def layout_vidgen(films, f):
    packed(films, f / "VidGen_video_0.zip", inner="home/x/", stored=False)
    write_json(f / "VidGen_1M_video_caption.json", rows("vid", "caption", "{}"))


def layout_4dnex(films, f):
    place(films[0], f, "raw/dynamic/dynamic_1/00007.mp4")
    place(films[1], f, "raw/dynamic/dynamic_2/00007.mp4")
    place(films[2], f, "raw/static/static_1/0012/video.mp4")
    for subset, number, text in (("dynamic_1", 7, 0), ("dynamic_2", 7, 1), ("static_1", 12, 2)):
        write_csv(f / "caption" / f"{subset}_with_caption_upload.csv", [{"number": number, "caption": CAPTIONS[text]}])


def layout_cosmos(films, f):
    plain(films, f, "clips")
    for name, text in zip(NAMES, CAPTIONS, strict=True):
        window = {"start_frame": 0, "qwen_caption": text}
        meta = {"span_uuid": name, "clip_location": f"/far/away/{name}.mp4", "valid": True, "windows": [window], "aesthetic_score": 4.5}
        write_json(f / "metas" / "v0" / f"{name}.json", meta)


def layout_diffsynth(films, f):
    plain(films, f, "train")
    write_csv(f / "metadata.csv", rows("video", "prompt", "train/{}.mp4"))


def layout_diffusion_pipe(films, f):
    plain(films, f)
    write_json(f / "captions.json", {f"{name}.mp4": [text] for name, text in zip(NAMES, CAPTIONS, strict=True)})


def layout_musubi(films, f):
    plain(films, f)
    write_lines(f / "musubi.jsonl", rows("video_path", "caption", str(f) + "/{}.mp4"))


def layout_finetrainers(films, f):
    plain(films, f, "videos")
    (f / "videos.txt").write_text("".join(f"videos/{name}.mp4\n" for name in NAMES), encoding="utf-8")
    (f / "prompts.txt").write_text("".join(f"{text}\n" for text in CAPTIONS), encoding="utf-8")


def layout_simpletuner(films, f):
    plain(films, f, "", txt)


def layout_videox_fun(films, f):
    plain(films, f)
    write_json(f / "metadata.json", rows("file_path", "text", type="video", width=64, height=48))


def layout_fastvideo(films, f):
    plain(films, f, "videos")
    write_json(f / "videos2caption.json", [row | {"cap": [row["cap"]]} for row in rows("path", "cap")])


def layout_nemo(films, f):
    plain(films, f, "", lambda stem, text: write_json(Path(f"{stem}.json"), {"caption": text}))


def layout_open_sora(films, f):
    plain(films, f)
    pq.write_table(pa.Table.from_pylist(rows("path", "text", num_frames=9, fps=8.0)), f / "train.parquet")


def layout_open_sora_plan(films, f):
    plain(films, f)
    write_json(f / "data.json", rows("path", "cap", resolution={"height": 48, "width": 64}))


def layout_ltx(films, f):
    plain(films, f)
    write_lines(f / "data.jsonl", rows("media_path", "caption"))


LAYOUTS = {name.removeprefix("layout_"): make for name, make in globals().items() if name.startswith("layout_")}
LAYOUTS |= {"ai_toolkit": layout_simpletuner, "videotuna": layout_csv}


@pytest.mark.parametrize("source", LAYOUTS)
def test_each_layout_gives_every_clip_with_its_caption(films, clips, source):
    LAYOUTS[source](films, clips)
    publication = catalogued(clips.parent, source)
    assert captions(publication) == sorted(CAPTIONS), "the word None is a caption like another"
    assert reasons(publication) == []
    frame = publication.table("catalog")
    assert set(frame["source"]) == {source}
    again = catalogued(clips.parent, source)
    assert again.data_version == publication.data_version


def by_name(path_column: str, caption_column: str) -> dict[str, dict]:
    """Rows under their file's name, as some tools write JSON."""
    return {row.pop(path_column): row for row in rows(path_column, caption_column)}


OTHER_FORMS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "diffsynth json": ("diffsynth", "", lambda f: write_json(f / "metadata.json", rows("video", "prompt"))),
    "diffsynth jsonl": ("diffsynth", "", lambda f: write_lines(f / "metadata.jsonl", rows("video", "prompt"))),
    "musubi relative": ("musubi", "", lambda f: write_lines(f / "train.jsonl", rows("video_path", "caption"))),
    "simpletuner parquet": (
        "simpletuner",
        "",
        lambda f: pq.write_table(pa.Table.from_pylist(rows("filename", "caption")), f / "m.parquet"),
    ),
    "videox_fun csv": ("videox_fun", "", lambda f: write_csv(f / "metadata.csv", rows("file_path", "text", type="video"))),
    "nemo meta.json": ("nemo", "", lambda f: write_json(f / "meta.json", rows("file_name", "caption"))),
    "nemo jsonl": ("nemo", "", lambda f: write_lines(f / "meta.jsonl", rows("file_name", "caption"))),
    "open_sora csv": ("open_sora", "", lambda f: write_csv(f / "train.csv", rows("path", "text", num_frames=9))),
    "ltx csv": ("ltx", "", lambda f: write_csv(f / "data.csv", rows("video", "caption"))),
    "ltx csv, before LTX-2": ("ltx", "", lambda f: write_csv(f / "data.csv", rows("media_path", "caption"))),
    "ltx json": ("ltx", "", lambda f: write_json(f / "data.json", rows("media_path", "caption"))),
    "videofolder jsonl": ("videofolder", "train", lambda f: write_lines(f / "train" / "metadata.jsonl", rows("file_name", "caption"))),
    "json of objects by name": ("json", "", lambda f: write_json(f / "any.json", by_name("path", "caption"))),
    "tsv": ("csv", "", lambda f: pd.DataFrame(rows("path", "caption")).to_csv(f / "t.tsv", sep="\t", index=False)),
}


class TestVideosInParquet:
    """Hugging Face's ``struct{bytes, path}``, or a plain column of bytes: read in place, row group by row group."""

    def write(
        self, films: list[Path], file: Path, first: int = 0, column: str = "video", plain_bytes: bool = False, captions: bool = True
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        videos = [film.read_bytes() for film in films]
        # HF keeps the path that the file once had.
        cells = videos if plain_bytes else [{"bytes": data, "path": f"/root/.cache/{n}.mp4"} for n, data in enumerate(videos)]
        found = [{column: cell, "fps": 8.0} | ({"caption": f"film {first + n}"} if captions else {}) for n, cell in enumerate(cells)]
        pq.write_table(pa.Table.from_pylist(found), file, row_group_size=2)

    def test_every_row_of_every_shard_is_a_clip_known_by_the_bytes_of_its_video(self, films, clips):
        self.write(films[:3], clips / "data" / "train-00000-of-00002.parquet")
        self.write(films[3:], clips / "data" / "train-00001-of-00002.parquet", first=3)
        publication = catalogued(clips.parent, "parquet")
        frame = publication.table("catalog").sort_values("caption")
        assert frame["caption"].tolist() == [f"film {n}" for n in range(4)]
        assert frame["clip_id"].tolist() == [digest_file(film)[:ID_DIGITS] for film in films]
        assert frame["path"].tolist()[2:] == [
            f"{clips}/data/train-00000-of-00002.parquet!/video/00000003",
            f"{clips}/data/train-00001-of-00002.parquet!/video/00000001",
        ]
        assert json.loads(frame["published"].iloc[0]) == {"fps": 8.0}
        assert reasons(publication) == []

    @pytest.mark.parametrize(("column", "remembered"), [("mp4", 2**26), ("movie", 0)])
    def test_a_column_of_bytes_is_read_too_and_large_groups_are_not_kept_in_memory(self, films, clips, monkeypatch, column, remembered):
        monkeypatch.setattr(parquet_column, "_REMEMBERED_BYTES", remembered)
        self.write(films, clips / "table.parquet", column=column, plain_bytes=True)
        ws = project(clips.parent, clips={"source": "parquet", "path": "clips", "path_column": column})
        entries = list(clip_source(ws).entries())
        assert [entry.relative for entry in entries] == [f"table.parquet!/{column}/{n:08d}" for n in range(1, 5)]
        for number in (0, 1, 2, 3, 1, 0, 0, 3):
            with entries[number].file.open() as file:
                assert file.read() == films[number].read_bytes()

    def test_rows_without_bytes_and_bytes_that_are_no_video_are_rejects_and_files_that_are_there_are_used(self, films, clips):
        place(films[0], clips, "a.mp4")
        data = films[1].read_bytes()
        cells = [{"bytes": None, "path": "a.mp4"}, {"bytes": None, "path": "gone.mp4"}, None, {"bytes": b"", "path": None}]
        cells += [{"bytes": b"<html>404</html>" * 9, "path": "b.mp4"}, {"bytes": data, "path": "../../etc/passwd"}]
        pq.write_table(pa.Table.from_pylist([{"video": cell, "caption": str(n)} for n, cell in enumerate(cells)]), clips / "t.parquet")
        publication = catalogued(clips.parent, "parquet")
        assert captions(publication) == ["0", "5"]
        rejects = publication.rejects().sort_values("path")
        assert rejects["reason"].tolist() == ["missing_file", "missing_file", "empty_file", "not_a_video"]
        assert rejects["detail"].tolist()[0] == ("row 2 of t.parquet holds no bytes in column video, and names no file that is there")

    def test_an_unchanged_table_is_not_read_again_and_a_cell_that_has_gone_is_missing(self, films, clips, monkeypatch):
        monkeypatch.setattr(hash_memory, "SETTLED_AFTER_NS", 0)
        self.write(films, clips / "t.parquet")
        source = clip_source(project(clips.parent, clips={"source": "parquet", "path": "clips"}))
        memory = HashMemory(clips.parent / "state")
        first = scan_module.scan(source, memory)
        with monkeypatch.context() as patch:
            patch.setattr(media_file, "read_cell", None)
            again = scan_module.scan(source, memory)
        assert (first.num_hashed, again.num_hashed) == (4, 0)
        assert [file.num_bytes for file in again.files] == [film.stat().st_size for film in films]
        self.write(films[:2], clips / "t.parquet")
        with pytest.raises(RejectRow, match=r"missing_file: t\.parquet holds no video/00000004"):
            memory.sha256(first.files[3].entry.file)

    def test_damage_in_a_row_group_costs_its_videos(self, films, clips):
        self.write(films, clips / "t.parquet")
        data = bytearray((clips / "t.parquet").read_bytes())
        data[4:40] = bytes(36)
        (clips / "t.parquet").write_bytes(bytes(data))
        publication = catalogued(clips.parent, "parquet")
        assert captions(publication) == ["film 2", "film 3"]
        assert reasons(publication) == ["damaged_archive", "damaged_archive"]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_the_other_forms_of_a_layout_are_read_too(films, clips, form):
    source, below, write = OTHER_FORMS[form]
    plain(films, clips, below)
    write(clips)
    assert listed_captions(clips.parent, source) == sorted(CAPTIONS)


@pytest.mark.parametrize("source", ["diffusion_pipe", "musubi", "finetrainers", "ai_toolkit", "simpletuner", "nemo", "video2dataset"])
def test_trainers_that_read_text_files_beside_the_videos_are_served_without_a_table(films, clips, source):
    plain(films, clips, "", txt)
    assert listed_captions(clips.parent, source) == sorted(CAPTIONS)


def test_a_folder_that_leads_back_to_itself_ends_for_tables_and_archives_too(films, clips):
    layout_videofolder(films, clips)
    packed(films[3:], clips / "more.zip", names=("extra",))
    (clips / "train" / "up").symlink_to(clips)
    (clips / "self").symlink_to("self")
    assert listed_captions(clips.parent, "videofolder") == sorted(CAPTIONS)
    assert listed_captions(clips.parent, "zip") == [None]


def test_the_settings_know_every_layout():
    from typing import get_args

    from motive_pipeline import config
    from motive_pipeline.sources import layouts

    assert set(get_args(config.SourceName)) == {"demo", "folder", *layouts.LAYOUTS}
    assert set(LAYOUTS) == {"folder", *layouts.LAYOUTS}


def test_publishers_scores_are_columns_and_its_numbers_that_contradict_the_file_are_kept_beside_the_files(films, clips):
    layout_openvid(films, clips)
    ws = project(clips.parent, clips={"source": "openvid", "path": "clips"})
    publish_clip_catalog(ws)
    found = ws.scores.query(
        "SELECT fps, aesthetic_score, motion_score, disagrees, published->>'camera motion', published->>'fps' FROM clips"
    ).fetchall()
    assert found == [(8.0, 5.1, 2.5, "fps,duration_s", "pan_left", "30.0")] * 3


def test_rows_without_file_files_without_row_and_names_found_twice_are_said(films, clips):
    packed(films[:2], clips / "OpenVid_part0.zip", names=("a", "b"))
    packed(films[2:], clips / "OpenVid_part1.zip", names=("a", "c"), inner="x/")
    write_csv(clips / "OpenVid-1M.csv", [{"video": f"{name}.mp4", "caption": name} for name in ("a", "b", "gone", "b")])
    publication = catalogued(clips.parent, "openvid", max_reject_share=0.25)
    assert reasons(publication) == ["duplicate_name", "missing_file", "orphan_file"]
    rejects = {row["reason"]: row for row in publication.rejects().to_dict("records")}
    assert rejects["missing_file"]["path"].endswith("clips/gone.mp4")
    assert "line 4 of OpenVid-1M.csv" in rejects["missing_file"]["detail"]
    assert rejects["orphan_file"]["path"].endswith("OpenVid_part1.zip!/x/c.mp4")
    assert "OpenVid_part0.zip!/a.mp4" in rejects["duplicate_name"]["detail"]
    told = {"rows without file": 1, "files without row": 1, "files of a name that stands for another": 1, "rows that name a file again": 1}
    assert told.items() <= publication.facts.items()


def test_bad_rows_are_rejects_with_their_line_and_the_others_are_used(films, clips):
    plain(films, clips)
    data = (
        b"\xef\xbb\xbffile_name,caption\n" + b'"one.mp4","a\nb"\n' + b"-two (2).mp4\n" + b"drei.drei.mp4,caf\xe9\n" + b"file_name,caption\n"
    )
    (clips / "metadata.csv").write_bytes(data + b",nothing\n")
    publication = catalogued(clips.parent, "csv")
    assert captions(publication) == ["a b"]
    bad = publication.rejects()
    bad = bad[bad["reason"] == "bad_row"]
    assert sorted(bad["detail"]) == [
        "line 4 of metadata.csv: 1 cells where the first line names 2 columns",
        "line 5 of metadata.csv: not valid UTF-8",
        "line 6 of metadata.csv: the first line again",
        "line 7 of metadata.csv: it names no file",
    ]


def test_a_torn_line_of_json_lines_is_one_reject_and_a_torn_json_file_an_error(films, clips):
    plain(films, clips)
    lines = "".join(json.dumps(row) + "\n" for row in rows("video", "caption"))
    (clips / "rows.jsonl").write_text(lines[:-20] + "\n[1]\n", encoding="utf-8")
    publication = catalogued(clips.parent, "jsonl")
    assert len(captions(publication)) == 2
    assert reasons(publication) == ["bad_row", "bad_row", "orphan_file"]
    assert "line 3 of rows.jsonl" in details(publication)
    write_json(clips / "rows.json", rows("video", "caption"))
    (clips / "rows.json").write_text((clips / "rows.json").read_text()[:-30])
    with pytest.raises(MotiveError, match=r"rows\.json: not whole"):
        catalogued(clips.parent, "json")


def test_lines_of_json_under_the_name_of_a_json_file_are_read_as_such(films, clips):
    plain(films, clips)
    write_lines(clips / "rows.json", rows("video", "caption"))
    assert captions(catalogued(clips.parent, "json")) == sorted(CAPTIONS)


TORN = "half of a character"


@pytest.mark.parametrize(
    ("name", "data", "detail"),
    [
        ("t.jsonl", b'{"video": "a.mp4", "caption": "cut \\ud83c"}\n', f"line 1 of t.jsonl: {TORN}"),
        ("t.jsonl", b'{"video": "a.mp4", "caption": "x", "\\udfff": 1}\n', f"line 1 of t.jsonl: {TORN}"),
    ],
)
def test_a_row_with_a_torn_text_is_a_reject(films, clips, name, data, detail):
    place(films[0], clips, "b.mp4")
    (clips / name).write_bytes(data)
    source = clip_source(project(clips.parent, clips={"source": name.rpartition(".")[2], "path": "clips"}))
    bad = next(entry for entry in source.entries() if isinstance(entry, BadEntry) and entry.reason != "orphan_file")
    assert bad.reason == "bad_row"
    assert bad.detail.startswith(detail)
    assert repr(bad).encode()


def test_texts_of_a_parquet_file_that_are_no_utf8_are_rejects(films, clips):
    plain(films, clips)
    said = pa.array([CAPTIONS[0].encode(), b"caf\xe9", CAPTIONS[2].encode()])
    table = pa.Table.from_arrays([pa.array([f"{name}.mp4" for name in NAMES]), said.view(pa.utf8())], ["video", "caption"])
    pq.write_table(table, clips / "t.parquet")
    publication = catalogued(clips.parent, "parquet")
    assert captions(publication) == sorted([CAPTIONS[0], CAPTIONS[2]])
    assert reasons(publication) == ["bad_row", "orphan_file"]
    assert "row 2 of t.parquet: not valid UTF-8" in details(publication)


def test_a_table_whose_columns_names_are_no_utf8_is_an_error_that_says_so(films, clips):
    place(films[0], clips, "a.mp4")
    (clips / "t.csv").write_bytes(b"video,caption,caf\xe9\na.mp4,x,1\n")
    with pytest.raises(MotiveError, match=r"t\.csv: its first line.*not valid UTF-8"):
        catalogued(clips.parent, "csv")


def test_numbers_that_no_float_holds_are_no_scores(films, clips):
    place(films[0], clips, "a.mp4")
    numbers = f'"fps": 1{"0" * 400}, "aesthetic_score": 1{"0" * 400}, "motion_score": Infinity, "width": NaN'
    (clips / "t.jsonl").write_text(f'{{"video": "a.mp4", "caption": "x", {numbers}}}\n')
    row = catalogued(clips.parent, "jsonl").table("catalog").iloc[0]
    assert np.isnan([row["aesthetic_score"], row["motion_score"]]).all()
    assert row["disagrees"] == ""
    assert json.loads(row["published"]).keys() == {"fps", "aesthetic_score"}


@pytest.mark.parametrize(
    ("text", "caption"),
    [("", ""), ("NA", "NA"), ("null", "null"), ("x" * 10_000, "x" * 10_000), ("a\u2028b\r\nc\td", "a b c d"), ("nul\0byte", "nul byte")],
)
def test_odd_captions_in_a_table(films, clips, text, caption):
    place(films[0], clips, "a.mp4")
    write_lines(clips / "rows.jsonl", [{"video": "a.mp4", "caption": text}])
    assert captions(catalogued(clips.parent, "jsonl")) == [caption]


@pytest.mark.parametrize("value", [{"deep": {"er": 1}}, [1, {"a": 2}], "x" * 70_000])
def test_a_caption_that_is_no_text_or_far_too_long_is_a_reject(films, clips, value):
    place(films[0], clips, "a.mp4")
    place(films[1], clips, "b.mp4")
    write_lines(clips / "rows.jsonl", [{"video": "a.mp4", "caption": value}, {"video": "b.mp4", "caption": None}])
    publication = catalogued(clips.parent, "jsonl")
    assert captions(publication) == [""]
    assert reasons(publication) == ["bad_caption"]


def test_several_captions_of_one_file_are_one_clip_and_all_are_kept(films, clips):
    place(films[0], clips, "a.mp4")
    write_json(clips / "captions.json", {"a.mp4": ["first", "second"]})
    frame = catalogued(clips.parent, "diffusion_pipe").table("catalog")
    assert (frame["caption"][0], json.loads(str(frame["other_captions"][0]))) == ("first", ["second"])


@pytest.mark.parametrize("named", ["../outside.mp4", "/etc/hostname", "a/../../outside.mp4"])
def test_a_row_cannot_lead_out_of_the_folder(films, clips, named):
    place(films[0], clips, "a.mp4")
    place(films[1], clips.parent, "outside.mp4")
    write_csv(clips / "rows.csv", [{"video": "a.mp4", "caption": "in"}, {"video": named, "caption": "out"}])
    publication = catalogued(clips.parent, "csv")
    assert captions(publication) == ["in"]
    assert reasons(publication) == ["outside_folder"]


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "nul\0.mp4", "new\nline.mp4", "", "clips", "."])
def test_names_that_no_file_has_are_rejects(films, clips, name):
    place(films[0], clips, "a.mp4")
    write_lines(clips / "rows.jsonl", [{"video": "a.mp4", "caption": "in"}, {"video": name, "caption": "out"}])
    publication = catalogued(clips.parent, "jsonl")
    assert captions(publication) == ["in"]
    assert reasons(publication)[0] in ("missing_file", "bad_file_name", "bad_row", "is_a_directory", "unreadable")


def test_what_the_publisher_calls_failed_is_no_clip(films, clips):
    for name, status in (("a", "success"), ("b", "failed_to_download")):
        place(films[0 if name == "a" else 1], clips, f"{name}.mp4")
        write_json(clips / f"{name}.json", {"caption": name, "status": status, "error_message": "timed out"})
    publication = catalogued(clips.parent, "video2dataset")
    assert captions(publication) == ["a"]
    assert reasons(publication) == ["source_failed"]
    assert "timed out" in details(publication)


def test_a_table_without_a_column_of_files_says_which_columns_there_are(films, clips):
    place(films[0], clips, "a.mp4")
    write_csv(clips / "rows.csv", [{"movie": "a.mp4", "words": "x"}])
    with pytest.raises(ConfigError, match="movie, words"):
        catalogued(clips.parent, "csv")
    assert captions(catalogued(clips.parent, "csv", path_column="movie", caption_column="words")) == ["x"]


def test_a_table_that_is_missing_or_one_of_several_is_asked_for(films, clips):
    place(films[0], clips, "a.mp4")
    with pytest.raises(ConfigError, match=r"needs a table.*\*\.csv.*clips\.table"):
        catalogued(clips.parent, "csv")
    for name in ("one", "two"):
        write_csv(clips / f"{name}.csv", [{"video": "a.mp4", "caption": name}])
    with pytest.raises(ConfigError, match=r"which of one\.csv, two\.csv.*clips\.table"):
        catalogued(clips.parent, "csv")
    assert captions(catalogued(clips.parent, "csv", table="clips/two.csv")) == ["two"]
    with pytest.raises(ConfigError, match=r"clips\.table = .*nine\.csv: there is no such file"):
        catalogued(clips.parent, "csv", table="clips/nine.csv")


def test_prompts_that_are_shifted_against_their_videos_are_refused(films, clips):
    layout_finetrainers(films, clips)
    (clips / "prompts.txt").write_text("one\ntwo\u2028still two\n")
    with pytest.raises(MotiveError, match=r"videos\.txt has 3 lines and prompts\.txt 2"):
        catalogued(clips.parent, "finetrainers")


def test_queries_and_held_out_queries_come_from_tables_too(films, tmp_path):
    for name, film in zip(("q.mp4", "h.mp4"), films, strict=False):
        place(film, tmp_path, "clips", name)
    write_csv(tmp_path / "q.csv", [{"video": "clips/q.mp4", "caption": "query", "category": "slide"}])
    write_csv(tmp_path / "h.csv", [{"video": "clips/h.mp4", "caption": "held out"}])
    ws = project(tmp_path, clips={"source": "folder"}, queries={"source": "csv", "path": None, "table": "q.csv", "held_out_table": "h.csv"})
    frame = publish_query_catalog(ws).table("queries").sort_values("role")
    assert frame[["role", "caption", "category"]].to_numpy().tolist() == [["held_out", "held out", "clips"], ["query", "query", "slide"]]


def test_a_missing_share_of_rows_above_the_gate_stops_the_stage(films, clips):
    place(films[0], clips, "a.mp4")
    write_csv(clips / "rows.csv", [{"video": f"{name}.mp4", "caption": ""} for name in "abcd"])
    with pytest.raises(GateFailed, match=r"3 of 4 clips rejected \(missing_file: 3\)"):
        catalogued(clips.parent, "csv", max_reject_share=0.5)


def test_members_of_archives_are_encoded_as_the_files_would_be(films, clips):
    """Stored and compressed members, and a plain file, give the same latents, and identity is that of the bytes."""
    place(films[0], clips.parent, "plain", "a.mp4")
    for ending in ("zip", "tar"):
        packed(films[:1], clips.parent / "s" / f"x.{ending}")
    packed(films[:1], clips.parent / "c" / "x.zip", stored=False)
    TestVideosInParquet().write(films[:1], clips.parent / "p" / "x.parquet", captions=False)
    contents = set()
    for source, folder in (("folder", "plain"), ("zip", "s"), ("zip", "c"), ("parquet", "p")):
        ws = project(clips.parent, clips={"source": source, "path": folder}, storage={"root": f"root-{folder}"})
        assert publish_clip_catalog(ws).counts.rejected == 0
        contents.add(tuple(publish_latents(ws, role="clip").table("index")[["clip_id", "content"]].to_numpy()[0]))
    assert len(contents) == 1


def test_clips_in_zips_go_through_the_pipeline_up_to_their_gradients(films, clips):
    layout_openvid(films, clips)
    place(films[3], clips.parent, "queries", "q.mp4")
    settings = {"clips": {"source": "openvid", "path": "clips"}, "gradient": {"store_dim": 64}, "influence": {"proj_dim": 64}}
    ws = project(clips.parent, **settings)
    publish_clip_catalog(ws)
    publish_query_catalog(ws)
    publish_latents(ws, role="clip")
    publish_motion_masks(ws, role="clip")
    publication = publish_gradients(ws, variant="motive", role="clip")
    group = zarr.open_group(publication.path, mode="r")
    assert group["gradient"].shape == (3, 64)  # type: ignore[union-attr]
    assert publication.rejects().empty
