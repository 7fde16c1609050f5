"""One root, one writer; and a root that lies apart from clips and from other roots. Links out of a root are never followed."""

import json
import sqlite3

import pytest

from motive_pipeline.config import parse_config
from motive_pipeline.errors import MotiveError
from motive_pipeline.export.subset import export_subset
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.models.folder import file_hashes
from motive_pipeline.storage import atomic
from motive_pipeline.storage.garbage import remove_unused, unused
from motive_pipeline.storage.layout import FILE, LAYOUT, mark_layout
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.workspace import Workspace
from tests.curation_fixtures import publish_table
from tests.storage.test_integrity import publish, reopened
from tests.storage.test_rows import damage

HOW = ["empty", "cut", "zeroed"]


def config_at(folder, *, root, state="null", clips=None, queries=None):
    section = {"clips": clips, "queries": queries}
    text = "".join(
        f"{name}: {{source: folder, path: {path}}}\n" if path else f"{name}: {{source: demo}}\n" for name, path in section.items()
    )
    return parse_config(f"storage: {{root: {root}, state: {state}}}\n{text}", folder / "motive.yaml")


def test_two_states_on_one_root_share_one_lock(tmp_path):
    one, other = (Workspace(config_at(tmp_path, root=tmp_path / "root", state=tmp_path / name)) for name in ("a", "b"))
    assert one.lock.path == other.lock.path == tmp_path / "root" / "run.lock"
    assert one.state != other.state


def test_the_root_s_lock_keeps_another_process_out(tmp_path):
    import subprocess
    import sys

    ws = Workspace(config_at(tmp_path, root=tmp_path / "root", state=tmp_path / "a"))
    code = "import sys; from pathlib import Path; from motive_pipeline.storage.lock import FileLock; FileLock(Path(sys.argv[1]), 'it').acquire(); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "root" / "run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Locked), ws.lock.holding():
        pass
    holder.communicate("")


@pytest.mark.parametrize("key", ["clips", "queries"])
@pytest.mark.parametrize("inside", ["", "motive_data", "deep/er"])
def test_a_root_inside_the_clips_or_queries_is_refused(tmp_path, key, inside):
    (tmp_path / "films" / "deep").mkdir(parents=True)
    config = config_at(tmp_path, root=tmp_path / "films" / inside, **{key: tmp_path / "films"})
    with pytest.raises(MotiveError, match=rf"storage.root.*lies inside {key}.path.*Set storage.root to a folder outside"):
        Workspace(config)


def test_a_root_that_a_link_leads_into_the_clips_is_refused(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "films")
    with pytest.raises(MotiveError, match=r"lies inside clips\.path"):
        Workspace(config_at(tmp_path, root=tmp_path / "link" / "root", clips=tmp_path / "films"))


def test_a_root_beside_the_clips_is_fine(tmp_path):
    (tmp_path / "films").mkdir()
    Workspace(config_at(tmp_path, root=tmp_path / "films_and_more", clips=tmp_path / "films"))


def test_a_root_inside_another_root_is_refused_and_one_around_another_too(tmp_path):
    mark_layout(tmp_path / "outer")
    with pytest.raises(MotiveError, match=r"lies inside another root.*outer"):
        Workspace(config_at(tmp_path, root=tmp_path / "outer" / "runs" / "one"))
    with pytest.raises(MotiveError, match=r"contains another root.*outer"):
        mark_layout(tmp_path)


def test_an_older_root_is_refused_with_the_command_that_starts_a_new_one(tmp_path):
    root = tmp_path / "root"
    atomic.write_json(root / FILE, {"layout": LAYOUT - 1})
    with pytest.raises(MotiveError, match=rf"older version.*mv {root} {root}.layout{LAYOUT - 1} && motive run"):
        Workspace(config_at(tmp_path, root=root))


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_layout_mark_names_itself_and_says_that_results_are_kept(tmp_path, how):
    mark_layout(tmp_path / "root")
    damage(tmp_path / "root" / FILE, how)
    with pytest.raises(MotiveError, match=r"layout.json is damaged.*All results are kept"):
        Workspace(config_at(tmp_path, root=tmp_path / "root"))


def test_gc_looks_into_no_link_and_removes_no_target(workspace, tmp_path):
    publish(workspace)
    outside = tmp_path / "outside"
    for name in ("rows/stage/old", "finetune/base/key", "published/old", "scratch"):
        (outside / name).mkdir(parents=True)
        (outside / name / "file").write_text("mine")
    (workspace.root / "rows").mkdir(exist_ok=True)
    (workspace.root / "rows" / "latents").symlink_to(outside / "rows" / "stage")
    (workspace.root / "rows" / "gradient").mkdir()
    link = workspace.root / "rows" / "gradient" / "0123"
    link.symlink_to(outside / "rows" / "stage" / "old")
    (workspace.root / "work").mkdir()
    (workspace.root / "work" / "finetune").symlink_to(outside / "finetune")
    (workspace.root / "work" / "scratch").symlink_to(outside / "scratch")
    (workspace.root / "published" / "moved").symlink_to(outside / "published")
    found = unused(workspace, assets={"curated_subset/motive"}, stale=())
    assert [each.path for each in found] == [link]
    remove_unused(found)
    assert not link.is_symlink()
    assert len(list(outside.rglob("file"))) == 4


def test_an_export_into_the_clips_or_the_pipeline_s_own_folders_is_refused(ws):
    clips = ws.config.clips.path
    chosen = ws.published("clip_catalog").table("catalog")[["clip_id"]].head(1).assign(rank=1)
    publish_table(ws, "curated_subset/motive", "subset", {name: list(chosen[name]) for name in chosen})
    for folder, message in (
        (clips / "export", r"lies inside clips\.path"),
        (ws.config.queries.path / "deep" / "export", r"lies inside queries\.path"),
        (ws.root / "published" / "export", "keeps its own files there"),
        (ws.root, "keeps its own files there"),
    ):
        with pytest.raises(MotiveError, match=message):
            export_subset(ws, "motive", folder, "finetrainers")


def test_the_work_folder_of_an_export_follows_no_link(tmp_path):
    from motive_pipeline.export.subset import _unlink_links

    outside, work = tmp_path / "outside", tmp_path / "work"
    outside.mkdir()
    (outside / "link").symlink_to(tmp_path)
    work.symlink_to(outside)
    _unlink_links(work)
    assert not work.exists()
    assert (outside / "link").is_symlink(), "links elsewhere are nobody's business"
    work.mkdir()
    (work / "videos").symlink_to(outside)
    _unlink_links(work)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("how", [*HOW, "20", "100"])
def test_a_damaged_memory_of_hashes_is_forgotten(tmp_path, caplog, how):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"film")
    memory = HashMemory(tmp_path / "state")
    first = memory.sha256(film)
    memory.save()
    memory._db.close()
    damage(memory.file, how)
    again = HashMemory(tmp_path / "state")
    assert again.sha256(film) == first
    again.save()
    assert HashMemory(tmp_path / "state").sha256(film) == first
    if how == "zeroed":
        assert "hashes.sqlite is damaged" in caplog.text


def test_a_memory_that_turns_out_damaged_while_it_is_used_is_forgotten(tmp_path, caplog):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"film")
    memory = HashMemory(tmp_path / "state")

    class Broken:
        def execute(self, *_):
            raise sqlite3.DatabaseError("database disk image is malformed")

    memory._db = Broken()
    assert memory.sha256(film)[1] == 4
    assert "hashes.sqlite is damaged" in caplog.text


@pytest.mark.parametrize("how", [*HOW, "100"])
def test_a_damaged_memory_of_model_hashes_is_forgotten(tmp_path, caplog, how):
    import os

    weights = tmp_path / "weights"
    weights.write_bytes(b"w")
    os.utime(weights, (1, 1))
    memory = tmp_path / "model_files.json"
    from motive_pipeline.models import folder as module

    before = module.YOUNG_S
    module.YOUNG_S = -1.0
    try:
        first = file_hashes(tmp_path, [weights], memory)
        assert memory.exists()
        damage(memory, how)
        assert file_hashes(tmp_path, [weights], memory) == first
        assert "model_files.json" in caplog.text
        assert file_hashes(tmp_path, [weights], memory) == first
    finally:
        module.YOUNG_S = before


@pytest.mark.parametrize("how", ["missing", *HOW, "100"])
@pytest.mark.parametrize("name", ["manifest.json", "v2/subsets/motive.parquet", "v2"])
def test_damaged_score_tables_are_made_again_from_the_publications(workspace, name, how):
    publish(workspace, "a")
    publish(workspace, "b")
    file = workspace.scores.folder / name
    if file.is_dir():
        import shutil

        shutil.rmtree(file)
    else:
        damage(file, how)
    ws = reopened(workspace)
    if how in ("zeroed", "100") and name.endswith(".parquet"):
        assert list(ws.scores.damages()), "only its hash tells"
    with pytest.raises(MotiveError, match=r"(manifest.json|v2).*motive run.*all results are kept|no scores below"):
        ws.scores.query("SELECT 1")
    ws.restore_scores()
    if name.endswith(".parquet") and how != "missing":  # the publication's own piece is the same file
        assert list(ws.damages()) or not ws.has_published("curated_subset/motive")
        publish(ws, "b")
    assert ws.scores.query("SELECT clip_id FROM subsets").fetchall() == [("b",)]
    publish(ws, "c")
    assert reopened(ws).scores.query("SELECT clip_id FROM subsets").fetchall() == [("c",)]
    assert reopened(ws).scores.query("SELECT count(*) FROM runs").fetchall()[0][0] >= 1


@pytest.mark.parametrize("how", HOW)
def test_damaged_tables_are_whole_again_after_the_next_publication(workspace, how):
    publish(workspace, "a")
    damage(workspace.scores.manifest, how)
    frame_less = reopened(workspace)
    frame_less.publish("eligible_pool", content="x", write=lambda folder: (folder / "f").write_text("x"), started=0.0)
    assert frame_less.scores.query("SELECT clip_id FROM subsets").fetchall() == [("a",)], "not half of the rows"


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_duckdb_file_is_made_again(workspace, how):
    publish(workspace, "a")
    if how == "cut":
        workspace.scores.duckdb_file.write_bytes(workspace.scores.duckdb_file.read_bytes()[:5])
    else:
        damage(workspace.scores.duckdb_file, how)
    ws = reopened(workspace)
    ws.scores.refresh_views()
    import duckdb

    with duckdb.connect(str(ws.scores.duckdb_file), read_only=True) as shell:
        assert shell.execute("SELECT clip_id FROM subsets").fetchall() == [("a",)]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_history_of_dagster_names_the_file_and_says_that_results_are_kept(tmp_path, how):
    from assets.instance import open_instance

    config = config_at(tmp_path, root=tmp_path / "root")
    with open_instance(config) as instance:
        instance.get_runs()
    file = next(path for path in sorted((config.storage.state / "dagster_home").rglob("*.db")))
    damage(file, "zeroed" if how == "cut" else how)
    with pytest.raises(MotiveError, match=rf"{file.name}.*is damaged.*All results are kept: move the folder"):
        open_instance(config)


@pytest.mark.parametrize("how", ["empty", "zeroed"])
def test_a_damaged_note_of_the_root_is_written_again(tmp_path, how):
    from assets.instance import BOUND_TO, instance_folder

    config = config_at(tmp_path, root=tmp_path / "root")
    folder = instance_folder(config)
    damage(folder / BOUND_TO, how)
    assert instance_folder(config) == folder
    assert (folder / BOUND_TO).read_text().strip() == str(config.storage.root)


def test_layout_is_marked_once(tmp_path):
    mark_layout(tmp_path / "root")
    assert json.loads((tmp_path / "root" / FILE).read_text()) == {"layout": LAYOUT}
