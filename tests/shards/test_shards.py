"""Shards: what one makes and where, that it goes on where it was, and what it refuses."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.cli import main
from motive_pipeline.errors import MotiveError, NotPublished
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.shards.record import load_record
from motive_pipeline.shards.share import RECORD, Share
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.rows import RowStore
from tests.clip_fixtures import catalogued, moving_square, write_video
from tests.shards.conftest import open_project, shard

ONE_VARIANT = ["random", "motive"]
IDS = [hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(3000)]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file outside the shards' folder."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items() if not name.startswith("shards/")}


def rows_of(folder: Path) -> dict[str, int]:
    """How many rows each store of a shard has, by stage."""
    counts: dict[str, int] = {}
    for segments in folder.glob("rows/*/*/segments"):
        store = RowStore(segments.parent)
        store.refresh()
        counts[segments.parent.parent.name] = len(store)
    return counts


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "a/b", "1", "1/", "/4", "-1/4", "1/0", "1.5/4", " 1/4", "1/4 ", "+1/4", "1/1000000", "١/٤", ""]
)
def test_a_shard_that_is_none_is_refused(text, capsys, tmp_path):
    with pytest.raises(ValueError, match="1 <= i <= n"):
        Share.parse(text)
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--config", str(tmp_path / "motive.yaml"), f"--shard={text}"])
    assert stopped.value.code == 2
    assert "as in 1/4 for the first of four" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_clip_belongs_to_one_shard_and_shards_are_about_equal(count):
    shares = [Share(count=count, number=number) for number in range(1, count + 1)]
    owners = [[share.number for share in shares if share.has(clip_id)] for clip_id in IDS]
    assert all(len(found) == 1 for found in owners)
    sizes = [sum(found == [number] for found in owners) for number in range(1, count + 1)]
    assert min(sizes) > 0.8 * len(IDS) / count


def test_which_shard_a_clip_belongs_to_never_changes():
    owners = [next(number for number in range(1, 6) if Share(count=5, number=number).has(clip_id)) for clip_id in IDS[:8]]
    assert owners == [4, 2, 1, 4, 3, 2, 2, 3], "a shard that was stopped under another version would start anew"


def test_shards_make_the_rows_of_their_own_clips_and_nothing_outside_their_folders(catalogued_only):
    ws = catalogued_only()
    before = files(ws.root)
    records = [shard(ws, number) for number in (1, 2, 3)]
    assert files(ws.root) == before
    assert sum(record.num_clips for record in records) == len(catalog_clips(ws, "clip")) == 6
    assert sum(record.num_queries for record in records) == 3
    assert all(record.num_clips for record in records)
    for record in records:
        folder = ws.root / "shards" / "3" / str(record.number)
        assert load_record(folder) == record
        assert record.assets["latents"].computed + record.assets["latents"].rejected == record.num_clips
        assert record.assets["projected_gradients/no_mask"].computed == record.assets["latents"].computed
        assert {stored.stage: stored.rows for stored in record.stores.values()} == rows_of(folder)
    assert sum(record.assets["latents"].rejected for record in records) == 1
    assert sum(stored.rejects for record in records for stored in record.stores.values()) > 0


def test_a_shard_that_is_complete_computes_nothing_again(sharded):
    record = shard(sharded(), 2)
    assert all(made.computed == 0 for made in record.assets.values())
    assert record.assets["latents"].reused == record.num_clips


def test_rows_of_the_main_root_are_not_computed_again(catalogued_only):
    ws = catalogued_only()
    publish_latents(ws, role="clip")
    record = shard(ws, 3)
    assert record.assets["latents"].computed == 0
    assert record.assets["projected_gradients/motive"].computed == record.assets["motion_masks"].computed > 0
    assert rows_of(ws.root / "shards" / "3" / "3")["latents"] == record.assets["query_latents"].computed


def test_after_a_change_of_the_catalog_only_what_changed_is_computed(own_videos, tmp_path):
    ws = catalogued(open_project(own_videos, tmp_path, arms=ONE_VARIANT))
    assert shard(ws, 1, 1).assets["latents"].computed == 5
    write_video(own_videos / "clips" / "new.mp4", moving_square(step_px=2.5, seed=40))
    again = shard(catalogued(ws), 1, 1)
    assert again.num_clips == 7
    assert {key: made.computed for key, made in again.assets.items() if made.computed} == {
        "latents": 1,
        "motion_masks": 1,
        "projected_gradients/motive": 1,
    }


def test_a_shard_without_clips_finishes_with_a_record(catalogued_only):
    ws = catalogued_only()
    ids = [clip.clip_id for role in ("clip", "query") for clip in catalog_clips(ws, role)]
    empty = next(number for number in range(1, 101) if not any(map(Share(count=100, number=number).has, ids)))
    record = shard(ws, empty, 100)
    assert (record.num_clips, record.num_queries, record.assets) == (0, 0, {})
    assert {stored.rows for stored in record.stores.values()} == {0}
    assert load_record(ws.root / "shards" / "100" / str(empty)) == record


def test_a_stopped_shard_keeps_what_it_has_committed_and_goes_on_there(catalogued_only, monkeypatch):
    from motive_pipeline.motion import stage

    original = stage.mask_row

    def stops(clip, *arguments):
        if clip.part == "query":
            raise KeyboardInterrupt
        return original(clip, *arguments)

    ws = catalogued_only()
    folder = ws.root / "shards" / "2" / "1"
    with monkeypatch.context() as patched:
        patched.setattr(stage, "mask_row", stops)
        with pytest.raises(KeyboardInterrupt):
            shard(ws, 1, 2)
    assert not (folder / RECORD).exists()
    kept = rows_of(folder)
    record = shard(ws, 1, 2)
    assert record.assets["latents"].computed == record.assets["motion_masks"].computed == 0
    assert record.assets["motion_masks"].reused == kept["motion_masks"] > 0
    assert record.assets["query_masks"].computed == record.num_queries > 0


def test_a_stopped_shard_is_not_complete_although_it_was_before(sharded, monkeypatch):
    from motive_pipeline.shards import run

    def stops(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "sources_of_rows", stops)
    ws = sharded()
    with pytest.raises(KeyboardInterrupt):
        shard(ws, 1)
    assert not (ws.root / "shards" / "3" / "1" / RECORD).exists()


def test_two_processes_do_not_run_one_shard(sharded, monkeypatch, held_by_another):
    monkeypatch.setattr("motive_pipeline.shards.run.LOCK_WAIT_S", 0.0)
    ws = sharded()
    held_by_another(ws.root / "shards" / "3" / "1" / "run.lock")
    with pytest.raises(Locked, match=r"shard 1/3 .* is in use by"):
        shard(ws, 1)
    assert (ws.root / "shards" / "3" / "1" / RECORD).exists()


def test_other_shards_and_a_run_of_the_main_root_go_on_at_the_same_time(sharded, held_by_another):
    ws = sharded()
    held_by_another(ws.root / "run.lock")
    held_by_another(ws.root / "shards" / "3" / "1" / "run.lock")
    assert shard(ws, 2).num_clips


def test_without_catalogs_a_shard_says_how_to_make_them(catalogued_only):
    with pytest.raises(
        NotPublished,
        match=r"clip_catalog was published under other settings \(clips.max_reject_share 0.4 -> 0.3\). Run `motive run --until",
    ):
        shard(catalogued_only(clips={"max_reject_share": 0.3}), 1)
    ws = catalogued_only()
    shutil.rmtree(ws.root / "published" / "query_catalog")
    with pytest.raises(NotPublished, match=r"query_catalog is not published\. Run `motive run --until catalog` first"):
        shard(ws, 1)


def test_a_machine_without_the_clips_is_named_before_any_work(own_videos, tmp_path):
    ws = catalogued(open_project(own_videos, tmp_path, arms=ONE_VARIANT))
    os.rename(own_videos, own_videos.with_name("elsewhere"))
    with pytest.raises(
        MotiveError, match=r"none of the 9 clips looked for is on this machine, for instance .*clips/.*mount the same folder"
    ):
        shard(ws, 1, 1)
    assert not (ws.root / "shards" / "1" / "1" / "rows").exists()


def test_a_shard_whose_files_go_meanwhile_is_not_complete(own_videos, tmp_path):
    ws = catalogued(open_project(own_videos, tmp_path, arms=ONE_VARIANT))
    for file in sorted((own_videos / "clips").glob("*.mp4"))[1:]:
        file.unlink()
    with pytest.raises(MotiveError, match="5 of 6 rows of latents could not be made, for instance missing_file"):
        shard(ws, 1, 1)
    assert not (ws.root / "shards" / "1" / "1" / RECORD).exists()


def test_rejections_for_a_passing_reason_are_counted_and_not_stored(own_videos, tmp_path):
    ws = catalogued(open_project(own_videos, tmp_path, arms=ONE_VARIANT))
    (own_videos / "clips" / "clip_1.mp4").unlink()
    record = shard(ws, 1, 1)
    assert (record.assets["latents"].rejected, record.assets["latents"].retried) == (2, 1)
    assert {stored.stage: stored.rejects for stored in record.stores.values()}["latents"] == 1


def test_several_devices_are_refused(catalogued_only):
    with pytest.raises(MotiveError, match=r"engine\.devices gives 2 devices \(cpu, cpu\).*one shard for each device"):
        shard(catalogued_only(engine={"devices": ["cpu", "cpu"]}), 1)


def test_the_command_says_what_a_shard_has_made(sharded, capsys):
    ws = sharded()
    config = str(ws.config.file)
    assert main(["run", "--config", config, "--shard", "2/3", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = ws.root / "shards" / "3" / "2"
    record = load_record(folder)
    assert lines[-1] == f"shard 2/3 is complete ({record.num_clips} clips, {record.num_queries} queries): {folder}"
    assert lines[0].split()[:5] == ["latents", "0", "computed", str(record.assets["latents"].reused), "reused"]
    assert main(["run", "--config", config, "--shards-folder", "x", "--quiet"]) == 1
    assert "--shards-folder belongs to --shard" in capsys.readouterr().err
    assert main(["run", "--config", config, "--shard", "2/3", "--summary", "--quiet"]) == 1
    assert "--summary" in capsys.readouterr().err


STAYS = """
import sys, time
import motive_pipeline.attribution.stage as stage
from motive_pipeline.cli import main

def waits(*_, **__):
    print("at work", flush=True)
    time.sleep(300)

stage.gradient_row = waits
code = main(sys.argv[1:])
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("dagster", "assets")))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_shard_at_once_and_no_shard_imports_dagster(catalogued_only, number, code):
    ws = catalogued_only()
    process = subprocess.Popen(
        [sys.executable, "-c", STAYS, "run", "--config", str(ws.config.file), "--shard", "1/1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == code
    assert err.splitlines()[-1] == "motive: stopped; committed results are kept, and the next run continues from there"
    assert out == "[]\n"
    assert rows_of(ws.root / "shards" / "1" / "1")["motion_masks"] == 8
    record = shard(ws, 1, 1)
    assert not any(made.computed for name, made in record.assets.items() if "gradients" not in name)
