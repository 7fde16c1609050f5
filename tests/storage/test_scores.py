"""Score tables: consistent versions, views that open anywhere, the user's own things left alone."""

import os
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.integrity import files_of
from motive_pipeline.storage.scores import KEEP_VERSIONS, ScoreTables
from motive_pipeline.storage.sealed import write_sealed
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.tables import table_from_frame as in_form


def subset(arm: str, *clips: str) -> pd.DataFrame:
    return pd.DataFrame({"arm": [arm] * len(clips), "clip_id": list(clips), "rank": range(1, len(clips) + 1)})


@pytest.fixture
def scores(tmp_path) -> ScoreTables:
    return ScoreTables(tmp_path / "ro'ot", tmp_path / "state")


def rows(scores: ScoreTables, sql: str) -> list[tuple]:
    return scores.query(sql).fetchall()


def test_every_view_of_the_contract_exists_from_the_first_version(scores):
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    for view in [*(set(TABLES) - {"catalog", "motion", "clip_flags"}), "clips"]:
        assert rows(scores, f"SELECT count(*) FROM {view}")[0][0] == (1 if view == "subsets" else 0)


def test_pieces_of_one_table_are_replaced_one_by_one(scores):
    scores.publish({("subsets", "motive"): subset("motive", "a"), ("subsets", "full"): subset("full", "a", "b")})
    scores.publish({("subsets", "motive"): subset("motive", "c", "d")})
    assert rows(scores, "SELECT arm, clip_id FROM subsets ORDER BY ALL") == [("full", "a"), ("full", "b"), ("motive", "c"), ("motive", "d")]


def test_a_version_flushes_its_new_pieces_and_not_those_that_it_links(scores, monkeypatch):
    scores.publish({("subsets", "motive"): subset("motive", "a"), ("subsets", "full"): subset("full", "a", "b")})
    flushed: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    scores.publish({("subsets", "motive"): subset("motive", "c")})
    assert [file.name for file in flushed if file.suffix == ".parquet"] == ["motive.parquet"]


def test_equal_pieces_make_no_new_version(scores):
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    before = scores.version()
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    assert scores.version() == before
    assert sorted(p.name for p in scores.folder.glob("v*")) == ["v1"]


def test_an_open_shell_keeps_its_version_and_a_new_one_sees_the_next(scores):
    scores.publish({("subsets", "motive"): subset("motive", "old")})
    with duckdb.connect(str(scores.duckdb_file)) as shell:
        assert shell.execute("SELECT clip_id FROM subsets").fetchall() == [("old",)]
        scores.publish({("subsets", "motive"): subset("motive", "new")})
        assert shell.execute("SELECT clip_id FROM subsets").fetchall() == [("old",)]
    assert rows(scores, "SELECT clip_id FROM subsets") == [("new",)]


def test_the_file_opens_from_another_folder(scores, tmp_path, monkeypatch):
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    monkeypatch.chdir("/")
    with duckdb.connect(str(scores.duckdb_file), read_only=True) as shell:
        assert shell.execute("SELECT count(*) FROM subsets").fetchone() == (1,)


def test_the_file_opens_in_every_duckdb_from_1_2_on(scores):
    """DuckDB refuses a file whose header has a higher number than its own: 64 up to 1.1, 65 for 1.2."""
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    header = scores.duckdb_file.read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    assert int.from_bytes(header[12:20], "little") <= 65
    with duckdb.connect(str(scores.duckdb_file), read_only=True) as shell:
        (tags,) = shell.execute("SELECT tags FROM duckdb_databases() WHERE NOT internal").fetchone() or ({},)
        assert str(tags["storage_version"]).startswith("v1.2"), "as DuckDB names it"


def test_a_file_in_a_newer_format_is_written_again_for_the_same_version(scores, monkeypatch):
    monkeypatch.setattr("motive_pipeline.storage.views.STORAGE_VERSION", "latest")
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    assert int.from_bytes(scores.duckdb_file.read_bytes()[12:20], "little") > 65
    monkeypatch.undo()
    scores.refresh_views()
    assert int.from_bytes(scores.duckdb_file.read_bytes()[12:20], "little") <= 65
    assert len(list((scores.duckdb_file.parent / "views").glob("*.duckdb"))) == 2, "the old one stays until the next version, for shells"


def test_a_users_table_is_never_lost(scores, caplog):
    scores.publish({("subsets", "motive"): subset("motive", "old")})
    with duckdb.connect(str(scores.duckdb_file)) as shell:
        shell.execute("CREATE TABLE mine AS SELECT 42 AS x")
    scores.publish({("subsets", "motive"): subset("motive", "new")})
    assert "mine" in caplog.text
    with duckdb.connect(str(scores.duckdb_file)) as shell:
        assert shell.execute("SELECT x FROM mine").fetchall() == [(42,)]
    assert rows(scores, "SELECT clip_id FROM subsets") == [("new",)]


def test_a_wal_keeps_the_file_as_it_is(scores, caplog):
    scores.publish({("subsets", "motive"): subset("motive", "old")})
    wal = scores.duckdb_file.with_name("scores.duckdb.wal")
    wal.write_bytes(b"unsaved")
    before = scores.duckdb_file.read_bytes()
    scores.publish({("subsets", "motive"): subset("motive", "new")})
    assert scores.duckdb_file.read_bytes() == before
    assert wal.read_bytes() == b"unsaved"


def test_only_the_last_versions_are_kept(scores):
    for i in range(KEEP_VERSIONS + 3):
        scores.publish({("subsets", "motive"): subset("motive", str(i))})
    assert len(list(scores.folder.glob("v*"))) == KEEP_VERSIONS


def test_no_scores_yet_says_what_to_do(scores):
    with pytest.raises(MotiveError, match="motive run"):
        scores.query("SELECT 1")


def test_clips_carry_their_motion_magnitude(scores):
    catalog = pd.DataFrame(
        {"clip_id": ["a", "b"], "path": ["p", "q"], "caption": ["", "x"], "num_frames": [17, 17], "fps": [16.0, 16.0]}
        | {"width": [64, 64], "height": [64, 64], "duration_s": [1.0, 1.0], "source": ["folder", "folder"], "flags": ["", ""]}
        | {"aesthetic_score": [5.0, 4.0], "motion_score": [1.0, 2.0], "published": ["", ""], "disagrees": ["", ""]}
    )
    scores.publish({("catalog", "catalog"): catalog, ("motion", "motion"): pd.DataFrame({"clip_id": ["a"], "motion_magnitude_px": [2.5]})})
    assert rows(scores, "SELECT clip_id, motion_magnitude_px FROM clips ORDER BY clip_id") == [("a", 2.5), ("b", None)]
    assert rows(scores, "SELECT published->>'fps' FROM clips") == [(None,), (None,)], "clips of which a table says nothing are no error"


def test_the_flags_of_a_clip_are_those_of_its_frames_else_those_of_its_first_frame(scores):
    catalog = pd.DataFrame({"clip_id": ["a", "b", "c"], "flags": ["rotated", "rotated", ""]}).reindex(columns=TABLES["catalog"].names)
    flags = pd.DataFrame({"clip_id": ["a", "c"], "flags": ["rotated,upscaled", ""]})
    scores.publish({("catalog", "catalog"): catalog, ("clip_flags", "clip_flags"): flags})
    found = [("a", ["rotated", "upscaled"]), ("b", ["rotated"]), ("c", [])]
    assert rows(scores, "SELECT clip_id, flags FROM clips ORDER BY clip_id") == found


def test_a_version_without_the_table_of_flags_has_its_view_of_the_clips(scores):
    scores.publish({("catalog", "catalog"): pd.DataFrame({"clip_id": ["a"], "flags": ["hdr"]}).reindex(columns=TABLES["catalog"].names)})
    version = scores.version()
    shutil.rmtree(version / "clip_flags")
    write_sealed(scores.manifest, {"version": version.name, "files": files_of(version)})
    assert rows(scores, "SELECT clip_id, flags FROM clips") == [("a", ["hdr"])]


def test_columns_that_a_table_has_gained_since_are_there_over_an_older_version(scores, monkeypatch):
    """An older version of the software left an empty table without them."""
    monkeypatch.setitem(TABLES, "preference", pa.schema(list(TABLES["preference"])[:4]))
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    monkeypatch.undo()
    scores.publish({("subsets", "motive"): subset("motive", "a")})
    assert scores.query("SELECT * FROM preference").columns == TABLES["preference"].names
    assert scores.version().name == "v2"


def as_an_older_version_wrote(file, table: pa.Table) -> None:
    file.unlink()
    pq.write_table(table, file)


def test_tables_of_an_older_version_get_lists_nulls_and_new_columns(scores):
    """Flags were texts with commas, -1 stood for all trainings, and ``runs`` did not know its run."""
    catalog = pd.DataFrame({"clip_id": ["a", "b"], "flags": ["hdr,frozen", ""]}).reindex(columns=TABLES["catalog"].names)
    values = pd.DataFrame({"arm": ["base"] * 2, "seed": [-1, 0], "value": [0.5, 0.5]}).reindex(columns=TABLES["eval_scores"].names)
    assert in_form("eval_scores", values)["seed"].to_pylist() == [None, 0]
    scores.publish(
        {
            ("catalog", "catalog"): catalog,
            ("runs", "x"): pd.DataFrame({"asset": ["x"], "started_at": [pd.Timestamp("2026-01-02", tz="UTC")]}).reindex(
                columns=TABLES["runs"].names
            ),
        }
    )
    version = scores.version()
    old_flags = pa.field("flags", pa.string())
    for name in ("catalog", "_empty"):
        file = version / "catalog" / f"{name}.parquet"
        table = pq.read_table(file)
        place = table.schema.get_field_index("flags")
        texts = pa.array([",".join(flags) for flags in table["flags"].to_pylist()], pa.string())
        as_an_older_version_wrote(file, table.set_column(place, old_flags, texts))
        file = version / "runs" / f"{'x' if name == 'catalog' else name}.parquet"
        as_an_older_version_wrote(file, pq.read_table(file).drop_columns(["run_id"]))
    as_an_older_version_wrote(version / "eval_scores" / "_empty.parquet", TABLES["eval_scores"].empty_table())
    write_sealed(scores.manifest, {"version": version.name, "files": files_of(version)})
    flags = [("a", ["hdr", "frozen"]), ("b", [])]
    assert rows(scores, "SELECT clip_id, flags FROM clips ORDER BY 1") == flags, "before anything is published"
    old = pa.Table.from_pandas(values, schema=TABLES["eval_scores"], preserve_index=False)
    pq.write_table(old, scores.folder / "old.parquet")
    scores.publish({("eval_scores", "base"): scores.folder / "old.parquet"})
    assert rows(scores, "SELECT clip_id, flags FROM clips ORDER BY 1") == flags
    assert pq.read_table(scores.version() / "catalog" / "catalog.parquet")["flags"].to_pylist() == [["hdr", "frozen"], []]
    assert rows(scores, "SELECT asset, run_id FROM runs") == [("x", None)]
    assert rows(scores, "SELECT seed FROM eval_scores ORDER BY 1") == [(0,), (None,)]
    with duckdb.connect(str(scores.duckdb_file), read_only=True) as shell:
        assert shell.execute("SELECT run_id FROM runs").fetchall() == [(None,)]
