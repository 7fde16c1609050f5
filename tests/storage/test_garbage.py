"""``motive gc``: lists what no current setting uses, removes it only when told to, and nothing that is needed."""

import shutil
from pathlib import Path

import pytest

from motive_pipeline.report.stage import publish_report
from motive_pipeline.storage.garbage import WORK, remove_unused, report_folders, unused
from motive_pipeline.storage.workspace import Workspace
from tests.eval_fixtures import copied, open_workspace, publish_upstream


@pytest.fixture
def ws(evaluated, tmp_path, tiny_model) -> Workspace:
    """A project with a report, in which everything is in use."""
    ws = copied(evaluated, tmp_path, tiny_model)
    _link_again(evaluated.root, ws.root)
    publish_report(ws)
    return ws


def _link_again(source: Path, copy: Path) -> None:
    """The copy gets the hard links that the original has."""
    first: dict[int, Path] = {}
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        target = copy / file.relative_to(source)
        if (known := first.setdefault(file.stat().st_ino, target)) != target:
            target.unlink()
            target.hardlink_to(known)


def assets(ws: Workspace) -> set[str]:
    """All assets that are published."""
    root = ws.root / "published"
    return {pointer.parent.relative_to(root).as_posix() for pointer in root.rglob("current.json")}


def listed(ws: Workspace, stale: tuple[str, ...] = (), **more) -> dict[str, str]:
    """What is unused -> why."""
    found = unused(ws, assets=more.get("assets", assets(ws)), stale=stale, keep=report_folders(ws))
    return {each.path.relative_to(ws.root).as_posix(): each.why for each in found}


def other(ws: Workspace, model, *lines: str) -> Workspace:
    """The same root under settings of which ``lines`` (old, new, old, new, ...) were replaced."""
    from motive_pipeline.config import parse_config
    from tests.eval_fixtures import SETTINGS

    text = SETTINGS.format(model=model, num_held_out=2)
    for old, new in zip(lines[::2], lines[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return Workspace(parse_config(text, ws.root.parent / "motive.yaml"))


def test_right_after_a_run_everything_is_in_use(ws):
    assert listed(ws) == {}


def test_in_a_copy_that_lost_its_hard_links_everything_is_in_use_too(evaluated, tmp_path, tiny_model):
    """``cp -r`` makes two files of one."""
    copy = copied(evaluated, tmp_path, tiny_model)
    assert all(file.stat().st_nlink == 1 for file in (copy.root / "work").rglob("*.safetensors"))
    publish_report(copy)
    assert listed(copy) == {}
    left = {name for name in assets(copy) if not name.endswith("/motive")}
    found = {each.path.relative_to(copy.root).as_posix() for each in unused(copy, assets=left, stale=())}
    assert sum(path.startswith("work/finetune/") for path in found) == 1, "what no publication holds still goes"


def test_rows_of_other_settings_go_with_those_of_the_controls(ws, tiny_model):
    changed = other(ws, tiny_model, "store_dim: 256", "store_dim: 512", "proj_dim: 256", "proj_dim: 512")
    assert listed(changed) == {}, "what is published now still rests on them"
    for variant in ws.config.variants:
        for role in ("projected", "query"):
            shutil.rmtree(ws.root / "published" / f"{role}_gradients" / variant)
    found = listed(changed)
    assert {path.split("/")[1] for path in found if path.startswith("rows/")} == {"gradient", "flow_similarity", "untrained_network"}


def test_the_work_of_an_arm_that_was_dropped_goes_and_that_of_others_stays(ws):
    left = {name for name in assets(ws) if not name.endswith("/random")}
    found = unused(ws, assets=left, stale=())
    paths = [each.path.relative_to(ws.root).as_posix() for each in found]
    assert sum(path.startswith("work/finetune/") for path in paths) == 1
    assert sum(path.startswith("published/") for path in paths) == 4
    weights = sum(file.stat().st_size for file in (ws.published("finetuned_checkpoint/random").path / "transformer").iterdir())
    assert sum(each.num_bytes for each in found) >= weights, "both names go, so the disk gains them"


def test_unfinished_work_of_stale_arms_stays(ws):
    holders = (*WORK.values(), "preference_bundle")  # which links to the videos
    left = {name for name in assets(ws) if not name.startswith(holders)}
    (ws.published("eval_report").path / "provenance.json").unlink()
    work = {path.relative_to(ws.root).as_posix() for path in (ws.root / "work").glob("*/*/*") if path.parts[-3] in WORK}
    assert {path for path in listed(ws, assets=left) if path.startswith("work/")} == work
    found = listed(ws, stale=("finetuned_checkpoint/motive",), assets=left)
    assert {path for path in found if path.startswith("work/")} == {path for path in work if path.startswith("work/videos/")}


@pytest.mark.slow
def test_after_removal_everything_current_is_there_and_nothing_is_computed_again(ws, tiny_model, tmp_path):
    leftover = ws.root / "published" / "eligible_pool" / ".tmp-abc"
    leftover.mkdir()
    old = shutil.copytree(ws.published("eligible_pool").folder, ws.root / "published" / "eligible_pool" / "0123-4567")
    found = unused(ws, assets=assets(ws), stale=(), keep=report_folders(ws))
    assert {each.path for each in found} == {leftover, old}
    remove_unused(found)
    assert not leftover.exists()
    assert not old.exists()
    before = {asset: ws.published(asset).data_version for asset in assets(ws)}
    again = open_workspace(tmp_path, tiny_model)
    publish_upstream(again)
    counts = {asset: again.published(asset).counts.computed for asset in before}
    heavy = ("latents", "motion_masks", "projected_gradients/motive", "finetuned_checkpoint/motive", "generated_videos/motive")
    assert [counts[asset] for asset in heavy] == [0] * 5
    changed = {asset for asset, version in before.items() if again.published(asset).data_version != version}
    assert changed == {"clip_catalog", "query_catalog"}, "they hold absolute paths, and the copy lies elsewhere"
