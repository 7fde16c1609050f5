"""The gate on rejects: how many pass, what is said, and where the list lies when a stage may not publish."""

import pandas as pd
import pytest

from motive_pipeline.catalog.reject_gate import lost_queries, require_few_rejects
from motive_pipeline.errors import GateFailed
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.storage.workspace import Reject
from tests.clip_fixtures import catalogued, moving_square, project, write_project, write_video


def rejects(number: int) -> list[Reject]:
    return [Reject(path=f"/clips/{k}.mp4", clip_id="", stage="latents", reason="too_short", detail=f"{k} frames") for k in range(number)]


@pytest.mark.parametrize(("rejected", "total", "passes"), [(0, 4, True), (1, 4, True), (2, 4, False), (1, 1, False), (0, 0, True)])
def test_a_quarter_of_the_clips_may_be_rejected_but_never_all(ws, rejected, total, passes):
    listing = ws.state / "rejects" / "latents.csv"
    if passes:
        require_few_rejects(ws, "latents", rejects(rejected), total=total)
        assert not listing.exists()
        return
    with pytest.raises(
        GateFailed, match=rf"latents: {rejected} of {total} clips rejected \(too_short: {rejected}\); clips.max_reject_share"
    ) as stop:
        require_few_rejects(ws, "latents", rejects(rejected), total=total)
    assert "For instance /clips/0.mp4: 0 frames" in str(stop.value)
    assert str(listing) in str(stop.value)
    assert pd.read_csv(listing)["path"].tolist() == [reject.path for reject in rejects(rejected)]
    require_few_rejects(ws, "latents", [], total=total)
    assert not listing.exists(), "the list goes when the stage passes"


def test_one_rejected_query_stops_the_stage_unless_the_settings_allow_it(tmp_path):
    write_project(tmp_path)
    still = write_video(tmp_path / "queries" / "still.mp4", moving_square(step_px=0.0, seed=40))
    with pytest.raises(
        GateFailed, match=r"query_masks: 1 of 4 queries rejected \(no_motion: 1\); queries\.max_reject_share allows a share of 0"
    ) as stop:
        publish_motion_masks(catalogued(project(tmp_path)), role="query")
    assert f"{still}: all but 0.5% of its pixels move by less than" in str(stop.value)
    assert "motion.still_px asks for 0.15" in str(stop.value)
    generous = project(tmp_path, queries={"max_reject_share": 0.25})
    publication = publish_motion_masks(generous, role="query")
    assert publication.rejects()["path"].tolist() == [str(still)]
    assert lost_queries(generous) == (
        f"1 query is not used, and the ranking and the scores rest on the others: {still}: no_motion ({publication.rejects()['detail'][0]})"
    )


def test_queries_that_are_all_used_need_no_warning(ws):
    publish_motion_masks(ws, role="query")
    assert lost_queries(ws) is None
