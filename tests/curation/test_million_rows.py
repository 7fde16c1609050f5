"""The benchmark of a million clips goes through every step, with few."""

import pandas as pd
import pytest

from benchmarks.million_rows import ARMS, STEPS, workspace


@pytest.mark.slow
def test_every_step_runs_on_what_the_steps_before_it_published(tmp_path):
    for step in STEPS.values():
        step(workspace(tmp_path), 90, 4)
    ws = workspace(tmp_path)
    assert len(ws.published("voted_ranking/motive").table("ranking")) == 90
    assert [len(ws.published(f"curated_subset/{arm}").table("subset")) for arm in ARMS if arm not in ("full", "without_harmful")] == [9] * 4
    assert ws.scores.query("SELECT count(*) FROM influence").fetchall() == [(360,)]
    atlas = pd.read_parquet(tmp_path / "export-full" / "clips.parquet")
    assert len(atlas) == 90
    assert {len(row) for row in atlas["gradient"]} == {512}
