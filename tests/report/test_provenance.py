"""``provenance.json``: from the report back to clips, settings, model, code and libraries; whatever was changed is noticed."""

import json
import re
import shutil

import pandas as pd
import pytest

from motive_pipeline.report.provenance_record import FILE
from motive_pipeline.report.stage import publish_report
from motive_pipeline.report.verify import main, verify
from tests.eval_fixtures import copied


@pytest.fixture(scope="module")
def made(evaluated, tmp_path_factory, tiny_model):
    """A project with its report, and the record."""
    ws = copied(evaluated, tmp_path_factory.mktemp("provenance"), tiny_model)
    report = publish_report(ws)
    return ws, report, json.loads((report.path / FILE).read_text(encoding="utf-8"))


@pytest.fixture
def changed(made, tmp_path, tiny_model):
    """A copy of the project that a test may change, and its report's folder."""
    ws = copied(made[0], tmp_path, tiny_model)
    return ws, ws.published("eval_report").path


def wrong(report, **where) -> set[str]:
    return {check.what for check in verify(report, **where) if check.outcome == "WRONG"}


def alter(table, change) -> None:
    """Change one value of a Parquet file in place."""
    frame = pd.read_parquet(table)
    change(frame)
    frame.to_parquet(table, index=False)


def test_the_record_names_everything_the_report_rests_on(made):
    ws, _, record = made
    assert set(record["report"]) == {"report.html", "report.md", "numbers.parquet"}
    for asset in (
        *("clip_catalog", "query_catalog", "latents", "query_latents", "motion_masks", "query_masks", "eligible_pool"),
        *(f"{name}/{variant}" for variant in ws.config.variants for name in ("projected_gradients", "query_gradients", "influence_matrix")),
        *(f"{name}/{arm}" for arm in ws.config.arms if arm != "base" for name in ("curated_subset", "finetuned_checkpoint")),
        *(f"{name}/{arm}" for arm in ws.config.arms for name in ("generated_videos", "eval_scores")),
    ):
        entry = record["assets"][asset]
        assert entry["data_version"] == ws.published(asset).data_version
        assert {"settings", "code_version", "upstream", "libraries", "content"} <= set(entry)
    assert set(record["clips"]) == set(ws.published("clip_catalog").table("catalog")["clip_id"])
    assert re.fullmatch("[0-9a-f]{32}", record["model"]["hash"])
    assert record["settings"]["gradient.timestep"] == "auto"
    assert record["software"]["libraries"]["torch"] != "not installed"


def test_the_record_says_nothing_of_times_and_folders(made):
    ws, report, record = made
    text = (report.path / FILE).read_text(encoding="utf-8")
    assert str(ws.root) not in text
    assert publish_report(ws).data_version == report.data_version, "made again, it is the same"
    assert json.loads((report.path / FILE).read_text(encoding="utf-8")) == record


def test_an_untouched_report_is_right_and_what_is_not_at_hand_is_named(made, tiny_model, capsys):
    _, report, _ = made
    checks = verify(report.path, model=tiny_model)
    assert {check.outcome for check in checks} == {"ok"}
    assert main([str(report.path)]) == 0
    out = capsys.readouterr().out
    assert "not checked" in out
    assert "--model FOLDER" in out
    assert "no check failed" in out


def test_a_stranger_with_only_the_report_checks_its_files_and_is_told_what_is_missing(made, tmp_path, capsys):
    shutil.copytree(made[1].path, tmp_path / "mailed")
    assert main([str(tmp_path / "mailed")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ok +the report's numbers.parquet$", out, re.MULTILINE)
    assert re.search(r"^not checked +voted_ranking/motive", out, re.MULTILINE)


def test_a_stranger_with_the_clips_finds_them_by_content(made, tmp_path):
    ws, report, record = made
    shutil.copytree(report.path, tmp_path / "mailed")
    catalog = ws.published("clip_catalog").table("catalog")
    clips = tmp_path / "clips"
    for path, names in zip(catalog["path"], catalog["sources"], strict=True):
        target = clips / json.loads(names)[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    found = {check.what: check for check in verify(tmp_path / "mailed", clips=[clips])}
    assert found[f"{len(record['clips'])} clips and queries"].outcome == "ok"
    assert found[f"{len(record['queries'])} clips and queries"].outcome == "not checked"
    victim = clips / json.loads(catalog["sources"][0])[0]
    victim.write_bytes(victim.read_bytes() + b"x")
    assert wrong(tmp_path / "mailed", clips=[clips]) == {f"clip {catalog['clip_id'][0]}"}


def test_a_changed_subset_row_a_changed_score_and_a_changed_number_are_noticed(changed, capsys):
    ws, report = changed
    alter(ws.published("curated_subset/motive").path / "subset.parquet", lambda frame: frame.__setitem__("rank", frame["rank"] + 1))
    assert wrong(report) == {"curated_subset/motive"}
    alter(ws.published("eval_scores/random").path / "scores.parquet", lambda frame: frame.__setitem__("value", frame["value"] + 1e-9))
    assert wrong(report) == {"curated_subset/motive", "eval_scores/random"}
    (report / "report.md").write_text((report / "report.md").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert wrong(report) == {"curated_subset/motive", "eval_scores/random", "the report's report.md"}
    assert main([str(report)]) == 1
    assert "3 of " in capsys.readouterr().out


def test_a_changed_gradient_and_a_missing_file_are_noticed(changed):
    ws, report = changed
    chunk = next(path for path in ws.published("projected_gradients/motive").path.rglob("*") if path.parts[-3:-1] == ("c", "0"))
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(bytes(data))
    (ws.published("generated_videos/full").path / "videos.parquet").unlink()
    assert wrong(report) == {"projected_gradients/motive", "generated_videos/full"}


def test_a_changed_model_is_noticed(made, tmp_path, tiny_model):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    file = next((model / "transformer").glob("*.json"))
    file.write_text(file.read_text() + "\n")
    assert any("base model" in what for what in wrong(made[1].path, model=model))


def test_a_report_that_joins_what_was_not_made_from_one_another_is_noticed(changed):
    """A ranking made again after the arms were trained: the report shows it beside checkpoints of the old subset."""
    _, report = changed
    record = json.loads((report / FILE).read_text(encoding="utf-8"))
    record["assets"]["curated_subset/motive"]["data_version"] = "0" * 32
    (report / FILE).write_text(json.dumps(record), encoding="utf-8")
    assert "finetuned_checkpoint/motive" in wrong(report)


def test_a_folder_without_a_record_says_what_to_name(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "Name the folder that holds report.html" in capsys.readouterr().err
