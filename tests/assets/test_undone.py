"""What a failed run leaves behind in the UI: the next one clears it up, although nothing is stale by then."""

import dagster as dg
import pytest

import assets.checks as checks
from assets.definitions import build_definitions
from assets.instance import open_instance
from assets.plan import plan
from assets.run_stale import run_stale
from tests.assets.test_automation import CATALOGS, make_project
from tests.graph_project import Project

pytestmark = pytest.mark.slow

CAPTIONS = "every_clip_has_a_caption"


@pytest.fixture
def project(tmp_path) -> Project:
    """Six clips whose catalogs have been made, which may all be rejected before a gate fails."""
    project = make_project(tmp_path)
    assert run_stale(project.config, CATALOGS).ok
    return project


def answered(project: Project) -> dict[str, str]:
    """Each check of the clip catalog, with the status that the UI reads."""
    with open_instance(project.config) as instance:
        graph = build_definitions(project.config).resolve_asset_graph()
        keys = [key for key in graph.asset_check_keys if key.asset_key == dg.AssetKey("clip_catalog")]
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    return {key.name: record.status.value for key, record in records.items()}


def failed_last(project: Project) -> bool:
    """Whether the UI paints the clip catalog red: the last run that was to materialize it is not the one that last did."""
    with open_instance(project.config) as instance:
        (record,) = instance.get_asset_records([dg.AssetKey("clip_catalog")])
    return record.asset_entry.last_run_id != record.asset_entry.last_materialization_record.run_id


def test_after_a_failed_gate_whose_setting_went_back_the_asset_is_looked_at_again_and_its_checks_answer(project):
    broken = project.folder / "clips" / "broken.mp4"
    project.set("clips.max_reject_share", 0.0)
    broken.write_bytes(b"<html>404 not found</html>" * 50)
    assert run_stale(project.config, CATALOGS).assets["clip_catalog"].status == "failed"
    assert (failed_last(project), "SUCCEEDED" in answered(project).values()) == (True, False)

    broken.unlink()
    del project.settings["clips"]["max_reject_share"]
    project.save()
    assert [asset.reasons for asset in plan(project.config) if asset.asset == "clip_catalog"] == [["its last run failed"]]
    again = run_stale(project.config, CATALOGS).assets["clip_catalog"]
    assert (again.status, again.rows_computed, again.rows_reused) == ("unchanged", 0, 6)
    assert again.seconds > 0
    assert not failed_last(project)
    assert set(answered(project).values()) == {"SUCCEEDED"}
    assert run_stale(project.config, CATALOGS).assets["clip_catalog"].seconds == 0, "once is enough"


def test_a_check_that_could_not_be_run_is_reported_and_run_again(project, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no figures")

    (project.folder / "clips" / "1.txt").write_text("another caption", encoding="utf-8")
    with monkeypatch.context() as patch, caplog.at_level("ERROR"):
        patch.setattr(checks, "_captions", broken)
        report = run_stale(project.config, CATALOGS)
    assert report.ok, "checks only show"
    assert report.assets["clip_catalog"].status == "computed"
    assert any(CAPTIONS in record.getMessage() and "no figures" in record.getMessage() for record in caplog.records)
    assert answered(project)[CAPTIONS] != "SUCCEEDED"

    assert run_stale(project.config, CATALOGS).assets["clip_catalog"].seconds == 0, "the check alone is run"
    assert set(answered(project).values()) == {"SUCCEEDED"}
