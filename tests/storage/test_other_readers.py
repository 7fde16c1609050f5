"""What lies below a root can be read by others: another user, another copy of the root, other libraries and their older versions."""

import json
import os
import shutil
import stat
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from motive_pipeline import cli
from motive_pipeline.storage import atomic
from motive_pipeline.storage.json_rows import json_rows
from motive_pipeline.storage.scores import ScoreTables
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.work_folders import link_tree
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.storage.zarr_groups import consolidate, new_array, new_group, write_column, write_ids
from tests.storage.test_integrity import publish
from tests.storage.test_scores import subset

CORE_TYPES = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"}
"""The data types in Zarr v3's specification that every reader has."""


@pytest.fixture
def umask():
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_may_be_read_by_whom_the_umask_allows(tmp_path, umask, mask, expected):
    """safetensors writes files for their owner only."""
    umask(mask)
    with atomic.new_folder(tmp_path / "work") as temp:
        (temp / "transformer").mkdir()
        save_file({"w": torch.ones(2)}, temp / "transformer" / "weights.safetensors")
        (temp / "run.sh").touch()
        (temp / "run.sh").chmod(0o700)
    weights = tmp_path / "work" / "transformer" / "weights.safetensors"
    assert rights(weights) == expected
    assert rights(tmp_path / "work" / "run.sh") == expected | 0o100
    with atomic.new_folder(tmp_path / "published") as temp:
        link_tree(tmp_path / "work", temp)
    assert rights(tmp_path / "published" / "transformer" / "weights.safetensors") == expected


def scores_in(root: Path) -> ScoreTables:
    return ScoreTables(root / "root", root / "root" / "state")


@pytest.fixture
def original(tmp_path) -> ScoreTables:
    """Scores in a root that a copy is then made of; afterwards the original goes on."""
    scores = scores_in(tmp_path / "a")
    scores.publish({("subsets", "motive"): subset("motive", "old")})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    scores.publish({("subsets", "motive"): subset("motive", "new")})
    return scores


def seen(file: Path, table: str = "subsets") -> list[tuple]:
    with duckdb.connect(str(file), read_only=True) as shell:
        return shell.execute(f"SELECT clip_id FROM {table}").fetchall()


def test_a_copied_root_never_shows_the_scores_of_the_other_root(original, tmp_path):
    copy = scores_in(tmp_path / "b")
    for table in TABLES:
        with (
            duckdb.connect(str(copy.duckdb_file), read_only=True) as shell,
            pytest.raises(duckdb.Error, match=r"copied or moved, `motive sql`"),
        ):
            shell.execute(f"SELECT * FROM {table}").fetchall()
    with duckdb.connect(str(copy.duckdb_file), read_only=True) as shell, pytest.raises(duckdb.Error, match="copied or moved"):
        shell.execute("SELECT count(*) FROM clips").fetchall()
    assert copy.is_elsewhere()
    copy.refresh_views()
    assert not copy.is_elsewhere()
    assert seen(copy.duckdb_file) == [("old",)]
    assert seen(original.duckdb_file) == [("new",)]


def test_the_views_work_however_the_file_is_opened(original, monkeypatch):
    file = original.duckdb_file
    with duckdb.connect() as shell:
        shell.execute(f"ATTACH '{file}' AS mine (READ_ONLY)")
        assert shell.execute("SELECT clip_id FROM mine.subsets").fetchall() == [("new",)]
        assert shell.execute("SELECT count(*) FROM mine.clips").fetchall() == [(0,)]
    for folder in (file.parent, file.parents[1], file.parents[2]):
        monkeypatch.chdir(folder)
        assert seen(file.relative_to(folder)) == [("new",)]
        assert seen(Path(".") / file.relative_to(folder)) == [("new",)]


def test_a_moved_root_shows_its_scores_once_motive_sql_has_looked(workspace, tmp_path, monkeypatch, capsys):
    publish(workspace, "a")
    target = tmp_path / "moved"
    workspace.root.rename(target)
    (tmp_path / "motive.yaml").write_text(f"storage: {{root: {target}}}\nclips: {{source: demo}}\nqueries: {{source: demo}}\n")
    assert cli.main(["sql", "--config", str(tmp_path / "motive.yaml"), "SELECT clip_id FROM subsets", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"clip_id": "a"}]
    assert seen(target / "state" / "scores.duckdb") == [("a",)]


def test_a_root_in_use_or_read_only_is_not_touched_by_a_look(workspace, tmp_path, monkeypatch):
    publish(workspace, "a")
    shown_at = workspace.state / "views" / "shown_at.txt"
    shown_at.write_text("/elsewhere\n")
    monkeypatch.setattr(atomic, "is_writable", lambda folder: False)
    Workspace(workspace.config).follow_moved_root()
    assert shown_at.read_text() == "/elsewhere\n"
    monkeypatch.undo()
    Workspace(workspace.config).follow_moved_root()
    assert shown_at.read_text() == f"{workspace.scores.duckdb_file}\n"


def test_json_keeps_every_digit_of_a_float_and_every_column():
    with duckdb.connect() as connection:
        relation = connection.sql(
            "SELECT 0.1::DOUBLE + 0.2 AS x, 1e-320::DOUBLE AS tiny, 12345678901234567890123::HUGEINT AS big, 'NaN'::DOUBLE AS nan, NULL AS none, true AS yes, "
            "1.25::DECIMAL(9, 2) AS price, TIMESTAMPTZ '2026-01-02 03:04:05.000006+00' AS at, [1.5, NULL] AS list, {'y': 0.1::DOUBLE + 0.2} AS struct, "
            "'\\xAB'::BLOB AS bytes, 'ü\"' AS text, 1 AS x, DATE '2026-01-02' AS day"
        )
        (row,) = json.loads(json_rows(relation))
    when = pd.Timestamp(row.pop("at"))
    assert when == pd.Timestamp("2026-01-02 03:04:05.000006", tz="UTC")
    assert row == {
        "x": 0.1 + 0.2, "tiny": 1e-320, "big": 12345678901234567890123, "nan": None, "none": None, "yes": True, "price": 1.25, "list": [1.5, None],
        "struct": {"y": 0.1 + 0.2}, "bytes": "ab", "text": 'ü"', "x_1": 1, "day": "2026-01-02",
    }  # fmt: skip


def test_a_column_without_any_value_has_its_type_in_a_published_table(workspace, tmp_path):
    frame = pd.DataFrame(
        {"clip_id": ["a", "b"], "aesthetic_score": [None, None], "rank": [None, None], "other_captions": [None, None], "x": [1.5, np.nan]}
    )
    write_parquet(frame, tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert [schema.field(name).type for name in ("aesthetic_score", "rank", "other_captions", "x")] == [
        pa.float64(),
        pa.int64(),
        pa.string(),
        pa.float64(),
    ]
    assert pd.read_parquet(tmp_path / "t.parquet")["aesthetic_score"].isna().all()
    frame.dropna(axis="columns", how="all").to_parquet(tmp_path / "pandas.parquet", index=False)
    write_parquet(frame.dropna(axis="columns", how="all"), tmp_path / "ours.parquet")
    assert (tmp_path / "pandas.parquet").read_bytes() == (tmp_path / "ours.parquet").read_bytes(), "the bytes of other tables stay"
    publish(workspace, "a")
    for file in workspace.root.rglob("*.parquet"):
        assert not any(pa.types.is_null(field.type) for field in pq.read_schema(file)), file
    assert workspace.published("curated_subset/motive").rejects().empty


def test_published_arrays_use_nothing_that_zarr_3_0_and_other_readers_lack(tmp_path):
    """Checked with zarr 3.0.0 and TensorStore 0.1.86, which read every published group."""
    group = new_group(tmp_path / "g", {"variant": "motive"})
    write_ids(group, "clip_id", np.array(["0123456789abcdef"]), "clip")
    write_column(group, "grad_norm", np.ones(1), "clip")
    new_array(group, "gradient", shape=(1, 4), dtype="float32", chunks=(1, 2), dims=("clip", "proj"))[:] = 1
    consolidate(group)
    for file in tmp_path.rglob("zarr.json"):
        meta = json.loads(file.read_text())
        if meta["node_type"] == "array":
            assert meta["data_type"] in CORE_TYPES
            assert [codec["name"] for codec in meta["codecs"]] in (["bytes", "crc32c"], ["bytes"])
            assert meta["chunk_grid"]["name"] == "regular"
            assert meta["chunk_key_encoding"]["name"] == "default"
            assert not meta.get("storage_transformers")
