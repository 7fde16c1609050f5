"""Whatever lies in the folder: nothing but an error that names it stops a run, and every file is accounted for.

``make fuzz`` runs the same with 2,000 examples (``FUZZ_EXAMPLES``).
"""

import io
import json
import os
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motive_pipeline.catalog.source_listing import list_source
from motive_pipeline.errors import MotiveError
from motive_pipeline.sources.configured import clip_source
from tests.clip_fixtures import counting_frames, project, write_video

FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

STEMS = ("a", "A", "b.c", "caf\u00e9", "cafe\u0301", "d e", "d%20e", "._a", "x" * 60, "\u00fc\udcff")
FOLDERS = ("", "sub/", "Sub/", "train/", "__MACOSX/", "test/deep/")
ENDINGS = (
    ".mp4",
    ".MP4",
    ".mkv",
    ".ts",
    ".gif",
    ".webp",
    ".txt",
    ".caption",
    ".json",
    ".mp4.txt",
    ".jpg",
    "",
    ".zip",
    ".tar.gz",
    ".z01",
    ".7z",
)

names = st.builds("".join, st.tuples(st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from(ENDINGS)))
small_files = st.one_of(
    st.sampled_from(["FILM 0", "FILM 1"]),  # the real films' bytes take the place of these
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"", b"G" * 200, b"GIF89aNETSCAPE2.0", b"PK\3\4" + bytes(40), b"\x1f\x8b", b'{"caption": NaN}', b'{"text": ["a", 1]}', b"[1]"]
    ),
)
trees = st.dictionaries(names, small_files, max_size=8)

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.sampled_from(["image", "video", "a.mp4"]))
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)
COLUMNS = ("video", "path", "caption", "text", "type", "status", "windows", "category", "bytes", "fps")
paths = st.one_of(
    names, st.sampled_from(["a.mp4", "a", "sub\\a.MP4", "/etc/hosts", "../a.mp4", "C:\\a.mp4", "\0", "", ".", "x" * 5000]), values
)
rows = st.dictionaries(st.sampled_from(COLUMNS), values, max_size=4).flatmap(lambda row: paths.map(lambda path: row | {"video": path}))

damages = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=3)
cuts = st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("films")
    return {f"FILM {n}": write_video(folder / f"{n}.mp4", counting_frames(9 + n, width=32, height=32)).read_bytes() for n in range(2)}


def written(folder: Path, tree: dict, films: dict) -> None:
    for name, data in tree.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(films.get(data, data) if isinstance(data, str) else data)
        except (OSError, UnicodeEncodeError):
            pass


def damaged(data: bytes, places, share: float) -> bytes:
    changed = bytearray(data[: int(len(data) * share)])
    for place, byte in places:
        if changed:
            changed[int(place * len(changed))] = byte
    return bytes(changed)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """Lists the folder ``clips`` and checks that every file is accounted for. An error that a user can cause is fine; any other fails the test."""
    root = tmp_path_factory.mktemp("project") / "data"

    def check(folder: str, source: str) -> None:
        clips = {"source": source, "path": str(Path(folder, "clips"))}
        ws = project(Path(folder), clips=clips, storage={"root": str(root)}, engine={"decode_workers": 0})
        try:
            listing = list_source(ws, clip_source(ws), "clip_catalog")
        except MotiveError:
            return
        merged = sum(len(json.loads(names)) - 1 for names in listing.frame["sources"])
        not_videos = sum(listing.inventory.not_videos.values())
        assert listing.inventory.num_files == len(listing.frame) + merged + len(listing.rejects) + not_videos
        assert listing.inventory.told().encode()
        listing.frame.to_parquet(io.BytesIO())
        pd.DataFrame([vars(reject) for reject in listing.rejects], dtype="object").to_parquet(io.BytesIO())
        assert all(reject.reason and reject.detail for reject in listing.rejects)

    return check


@FUZZ
@given(tree=trees)
def test_any_folder_of_videos_and_captions(films, listed, tree):
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder, "clips"), tree | {"sure.mp4": "FILM 0"}, films)
        listed(folder, "folder")


@FUZZ
@given(
    tree=trees,
    members=trees,
    kind=st.sampled_from([0, 8, 12, 14, "tar"]),
    method=st.sampled_from([None, 9, 93]),
    places=damages,
    share=cuts,
)
def test_any_archive(films, listed, tree, members, kind, method, places, share):
    packed = io.BytesIO()
    contents = {
        name.encode("utf-8", "replace").decode(): films.get(data, data) if isinstance(data, str) else data for name, data in members.items()
    }
    if kind == "tar":
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, data in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        with zipfile.ZipFile(packed, "w", kind) as opened:
            for name, data in contents.items():
                opened.writestr(name, data)
    data = packed.getvalue()
    if method is not None and (at := data.find(b"PK\1\2")) >= 0:
        data = data[: at + 10] + struct.pack("<H", method) + data[at + 12 :]
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder, "clips"), tree | {"pack" + (".tar" if kind == "tar" else ".zip"): damaged(data, places, share)}, films)
        listed(folder, "zip")


@FUZZ
@given(tree=trees, table=st.lists(rows, min_size=1, max_size=6), form=st.sampled_from(["json", "jsonl", "csv", "object"]), places=damages)
def test_any_table(films, listed, tree, table, form, places):
    if form == "csv":
        text = "video,caption,type\n" + "".join(f"{row['video']},{row.get('caption')},{row.get('type', 'video')}\n" for row in table)
    elif form == "object":
        text = json.dumps({str(row["video"]): row for row in table})
    else:
        text = json.dumps(table) if form == "json" else "".join(json.dumps(row) + "\n" for row in table)
    with tempfile.TemporaryDirectory() as folder:
        source = "json" if form == "object" else form
        data = damaged(text.encode("utf-8", "surrogatepass"), places, 1.0)
        (Path(folder) / f"t.{source}").write_bytes(data)
        written(Path(folder, "clips"), tree | {"a.mp4": "FILM 0"}, films)
        (Path(folder) / f"t.{source}").rename(Path(folder, "clips", f"t.{source}"))
        listed(folder, source)


cells = st.one_of(st.none(), st.binary(max_size=20), names.map(lambda name: name.encode("utf-8", "surrogateescape")), st.just("FILM 1"))


@FUZZ
@given(
    tree=trees,
    column=st.lists(cells, min_size=1, max_size=5),
    said=st.lists(cells, min_size=5, max_size=5),
    places=damages,
    group=st.integers(1, 3),
)
def test_any_parquet_file(films, listed, tree, column, said, places, group):
    video, caption = ([films.get(cell, cell) if isinstance(cell, str) else cell for cell in each] for each in (column, said[: len(column)]))
    packed = io.BytesIO()
    pq.write_table(
        pa.table({"video": pa.array(video, pa.binary()), "caption": pa.array(caption, pa.binary())}), packed, row_group_size=group
    )
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder, "clips"), tree | {"a.mp4": "FILM 0", "t.parquet": damaged(packed.getvalue(), places, 1.0)}, films)
        listed(folder, "parquet")
