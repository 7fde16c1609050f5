"""``motive merge``: the main root gets what a run without shards would have computed, bit for bit, or the shards at fault are named."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from motive_pipeline.attribution.second_moments import publish_second_moments
from motive_pipeline.cli import main
from motive_pipeline.errors import MotiveError
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.shards import merge as merging
from motive_pipeline.shards.merge import Merged, merge_shards
from motive_pipeline.shards.record import load_record, save_record
from motive_pipeline.shards.share import RECORD, shards_folder
from motive_pipeline.storage.adopting import Adopted
from motive_pipeline.storage.garbage import remove_unused, unused
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.workspace import Workspace
from tests.shards.conftest import SETTINGS, open_project, publish_rows, shard


def merge(ws: Workspace, count: int | None = None) -> Merged:
    return merge_shards(ws.config, shards_folder(ws.config, None), count)


def place(ws: Workspace, number: int) -> Path:
    return ws.root / "shards" / "3" / str(number)


def rows_taken(merged: Merged) -> dict[str, Adopted]:
    return {name.split("/")[0]: taken for name, taken in merged.taken.items()}


@pytest.fixture(scope="session")
def unsharded(videos, catalogued_project, tmp_path_factory) -> dict[str, tuple[str, int]]:
    """What a run without shards publishes."""
    folder = shutil.copytree(catalogued_project, tmp_path_factory.mktemp("unsharded") / "project")
    return publish_rows(open_project(videos, folder))


def test_merged_shards_publish_the_bits_of_a_run_without_shards_and_compute_nothing(sharded, unsharded):
    merged = merge(sharded())
    assert rows_taken(merged) == {
        "latents": Adopted(rows=8, rejects=1),
        "perceptual_hashes": Adopted(rows=8, rejects=0),
        "motion_masks": Adopted(rows=8, rejects=1),
        "gradient": Adopted(rows=14, rejects=0),
    }
    found = publish_rows(sharded())
    assert {key: version for key, (version, _) in found.items()} == {key: version for key, (version, _) in unsharded.items()}
    assert {key: computed for key, (_, computed) in found.items() if computed} == {}
    assert any(computed for _, computed in unsharded.values())
    rejects = sharded().published("latents").rejects()
    assert rejects["path"].str.endswith("bad.mp4").tolist() == [True]


def test_a_second_merge_takes_nothing(sharded):
    merge(sharded())
    before = sorted(path.name for path in (sharded().root / "rows").rglob("*.json"))
    assert set(rows_taken(merge(sharded())).values()) == {Adopted()}
    assert sorted(path.name for path in (sharded().root / "rows").rglob("*.json")) == before


@pytest.mark.slow
def test_rows_that_the_main_root_has_made_meanwhile_stay(sharded, unsharded):
    ws = sharded()
    publish_latents(ws, role="clip")
    refs = {key: ws.store_at(name).find(key) for name in load_record(place(ws, 1)).stores for key in ws.store_at(name).keys()}  # noqa: SIM118
    assert rows_taken(merge(sharded()))["latents"] == Adopted(rows=3)
    after = sharded()
    for name in load_record(place(ws, 1)).stores:
        store = after.store_at(name)
        assert all(store.find(key) == ref for key, ref in refs.items() if store.find(key) is not None and name.startswith("latents"))
    assert {key: version for key, (version, _) in publish_rows(after).items()} == {key: version for key, (version, _) in unsharded.items()}


@pytest.mark.parametrize("count", [1, 5, 11])
def test_a_killed_merge_is_finished_by_the_next_one(sharded, monkeypatch, count):
    """Killed with the ``count``-th row store of a shard."""

    class Killed(BaseException):
        pass

    calls = 0

    def dies(store, source):
        nonlocal calls
        calls += 1
        if calls == count:
            raise Killed
        return original(store, source)

    original = merging.adopt_rows
    with monkeypatch.context() as patched:
        patched.setattr(merging, "adopt_rows", dies)
        with pytest.raises(Killed):
            merge(sharded())
    merge(sharded())
    ws = sharded()
    stores = [ws.store_at(name) for name in load_record(place(ws, 1)).stores]
    assert sum(len(store) for store in stores) == 8 + 8 + 8 + 14
    assert [damage for store in stores for damage in store.damages()] == []


def test_missing_and_damaged_shards_are_all_named_and_nothing_is_taken(sharded, held_by_another):
    ws = sharded()
    shutil.rmtree(place(ws, 1))
    data = (place(ws, 2) / RECORD).read_bytes()
    (place(ws, 2) / RECORD).write_bytes(data[:-20])
    held_by_another(place(ws, 3) / "run.lock")
    with pytest.raises(MotiveError) as error:
        merge(ws)
    text = str(error.value)
    assert text.startswith("3 of 3 shards in ")
    assert f"shard 1/3 has not finished, or has never run: there is no {place(ws, 1) / RECORD}" in text
    assert "shard 2/3" in text
    assert "is cut or altered" in text
    assert "shard 3/3 is at work" in text
    assert "as in `motive run --shard 1/3`" in text
    assert not (ws.root / "rows" / "latents").exists()


def test_a_shard_that_was_run_again_since_it_was_looked_at_is_named(sharded, monkeypatch):
    ws = sharded()
    looked = merging._checked

    def looks(*arguments):
        found = looked(*arguments)
        record = load_record(place(ws, 2))
        save_record(place(ws, 2), type(record)(**(vars(record) | {"finished_at": "later"})))
        return found

    monkeypatch.setattr(merging, "_checked", looks)
    with pytest.raises(MotiveError, match=r"1 of 3 shards .*\n.*shard 2/3 was run again meanwhile"):
        merge(ws)


def test_shards_of_other_settings_are_named_with_the_setting(sharded):
    with pytest.raises(MotiveError) as error:
        merge(sharded(gradient={"store_dim": 512}))
    assert "shard 1/3 was made with other settings: gradient.store_dim 1024 -> 512" in str(error.value)
    assert "shard 3/3" in str(error.value)
    assert "lacks" not in str(error.value)


def test_settings_that_change_no_row_make_no_difference(sharded):
    assert len(merge(sharded(vote={"percentile": 80}, engine={"commit_rows": 7})).records) == 3


def test_a_shard_of_another_catalog_or_model_is_named(sharded, own_videos, tmp_path):
    ws = sharded()
    record = load_record(place(ws, 2))
    save_record(place(ws, 2), type(record)(**(vars(record) | {"sources": record.sources | {"clip_catalog": "f" * 32}})))
    record = load_record(place(ws, 3))
    save_record(place(ws, 3), type(record)(**(vars(record) | {"sources": record.sources | {"the model": "e" * 32}})))
    with pytest.raises(MotiveError) as error:
        merge(ws)
    now = ws.published("clip_catalog").data_version
    assert "2 of 3 shards" in str(error.value)
    assert f"shard 2/3 was made with another version of clip_catalog (ffffffffffff; now {now[:12]})" in str(error.value)
    assert "shard 3/3 was made with another version of the model (eeeeeeeeeeee; now " in str(error.value)


def test_lost_and_altered_rows_of_a_shard_are_named(sharded):
    ws = sharded()
    num_rows = next(stored.rows for stored in load_record(place(ws, 1)).stores.values() if stored.stage == "gradient")
    for record in (place(ws, 1) / "rows" / "gradient").glob("*/segments/*.json"):
        record.unlink()
    with pytest.raises(MotiveError, match=rf"shard 1/3 has lost rows of gradient: .* has 0 of {num_rows}\n"):
        merge(ws)
    shard(sharded(), 1)
    segment = next((place(ws, 3) / "rows" / "latents").glob("*/segments/*.safetensors"))
    data = bytearray(segment.read_bytes())
    data[-5] ^= 255
    segment.write_bytes(bytes(data))
    with pytest.raises(MotiveError, match=rf"1 of 3 shards (.|\n)*shard 3/3 .*{segment.name} is cut or altered(.|\n)*run --shard 3/3"):
        merge(sharded())
    made = shard(sharded(), 3).assets  # the segment may hold rows of clips or of queries
    assert sum(made[name].computed for name in ("latents", "query_latents") if name in made) > 0, "and it makes them again"
    assert len(merge(sharded()).records) == 3


def test_how_many_shards_there_are_is_seen_or_asked(sharded):
    ws = sharded()
    (ws.root / "shards" / "5" / "1").mkdir(parents=True)
    with pytest.raises(MotiveError, match=r"holds sets of 3, 5 shards\. Say which one with --shards N"):
        merge(ws)
    assert len(merge(ws, 3).records) == 3
    with pytest.raises(MotiveError, match="5 of 5 shards"):
        merge(ws, 5)
    shutil.rmtree(ws.root / "shards")
    with pytest.raises(MotiveError, match=r"there are no shards in .*Run `motive run --shard i/n` for each i"):
        merge(ws)


def test_a_root_in_use_is_not_merged_into(sharded, held_by_another):
    ws = sharded()
    held_by_another(ws.root / "run.lock")
    with pytest.raises(Locked):
        merge(ws)


def test_unequal_machines_are_warned_of(sharded, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("motive_pipeline"), "propagate", True)
    ws = sharded()
    record = load_record(place(ws, 2))
    save_record(place(ws, 2), type(record)(**(vars(record) | {"machine": record.machine | {"device": "NVIDIA H200"}})))
    merge(ws)
    assert any("device differs" in line and "NVIDIA H200 in the shards 2" in line for line in caplog.messages)


def test_the_shards_may_lie_in_another_folder_on_another_file_system(sharded, monkeypatch, tmp_path, capsys):
    ws = sharded()
    elsewhere = tmp_path / "elsewhere"
    os.rename(ws.root / "shards", elsewhere)
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", _no_links)
        assert main(["merge", "--config", str(ws.config.file), "--shards-folder", str(elsewhere), "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shards"] == 3
    assert sum(taken["rows"] for taken in told["taken"].values()) == 8 + 8 + 8 + 14
    shutil.rmtree(elsewhere)
    assert all(computed == 0 for _, computed in publish_rows(sharded()).values())


def _no_links(*_):
    raise OSError("no links here")


@pytest.mark.slow
def test_adams_variants_wait_for_the_second_moments_and_come_with_a_second_round(videos, catalogued_only, capsys):
    adam = {"influence": SETTINGS["influence"] | {"preconditioner": "adam", "adam_clips": 2}, "arms": ["random", "motive"]}
    records = [shard(catalogued_only(**adam), number, 2) for number in (1, 2)]
    for record in records:
        assert set(record.waiting) == {"projected_gradients/motive", "query_gradients/motive"}
        assert "it needs second_moments" in record.waiting["projected_gradients/motive"]
        assert "latents" in record.assets
    ws = catalogued_only(**adam)
    assert main(["merge", "--config", str(ws.config.file), "--quiet"]) == 0
    assert """motive run --select '+key:"second_moments"'""" in capsys.readouterr().out
    publish_latents(ws, role="clip")
    publish_second_moments(ws)
    with pytest.raises(MotiveError, match=r"2 of 2 shards(.|\n)*another version of second_moments \(none; now"):
        merge(ws)
    again = [shard(catalogued_only(**adam), number, 2) for number in (1, 2)]
    assert not any(record.waiting for record in again)
    assert sum(record.assets["projected_gradients/motive"].computed for record in again) == 5
    assert not any(record.assets["latents"].computed for record in again)
    merge(catalogued_only(**adam))
    assert all(computed == 0 for _, computed in publish_rows(catalogued_only(**adam)).values())
    other = adam | {"influence": adam["influence"] | {"adam_clips": 3}}
    assert shard(catalogued_only(**other), 1, 2).waiting, "what is published was made under other settings"


@pytest.mark.slow
def test_gc_keeps_shards_until_they_are_merged_and_while_one_is_at_work(sharded, held_by_another):
    def found(ws: Workspace) -> dict[str, str]:
        return {each.path.relative_to(ws.root).as_posix(): each.why for each in unused(ws, assets=ws.assets(), stale=ws.graph.assets)}

    assert found(sharded()) == {}
    merge(sharded())
    ws = sharded()
    listed = unused(ws, assets=ws.assets(), stale=ws.graph.assets)
    segments = sum(file.stat().st_size for file in (ws.root / "shards").rglob("*.safetensors"))
    others = sum(file.stat().st_size for file in (ws.root / "shards").rglob("*") if file.is_file()) - segments
    assert sum(each.num_bytes for each in listed) == others, "linked segments take no space of their own"
    expected = publish_rows(sharded())
    assert found(sharded()) == {"shards/3": "shards that are merged"}
    remove_unused(listed)
    assert not (ws.root / "shards" / "3").exists()
    assert publish_rows(sharded()) == expected

    other = sharded(gradient={"store_dim": 512})
    shard(other, 1, 1)
    assert "shards/1" not in found(other)
    held_by_another(other.root / "shards" / "1" / "1" / "run.lock")
    assert not any(path.startswith("shards") for path in found(sharded()))
