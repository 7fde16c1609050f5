"""The harmful clips: the worst share by mean influence, as far as it is negative; and the arm that does without the worst."""

import numpy as np
import pandas as pd
import pytest

from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.harmful import harmful_clips, worst_first
from motive_pipeline.storage.workspace import Workspace
from tests.curation_fixtures import clip_names, publish_clips, publish_table

NAMES = clip_names(20)
CONFIG = "clips: {{source: demo}}\nqueries: {{source: demo}}\nsubset: {{share: {share}}}\narms: [full, without_harmful, motive]\n"


def ranking(mean_influence: list[float], num_selected: int) -> pd.DataFrame:
    """A ranking by votes, which say something else than the mean influence does."""
    order = np.random.default_rng(3).permutation(len(mean_influence))
    columns = {"clip_id": [NAMES[n] for n in order], "votes": 1, "mean_influence": [mean_influence[n] for n in order]}
    ranks = np.arange(1, len(order) + 1)
    return pd.DataFrame(columns | {"rank": ranks, "selected": ranks <= num_selected})


def arm_workspace(make_config, share: float, pool: list[str], ranked: pd.DataFrame) -> Workspace:
    ws = Workspace(make_config(CONFIG.format(share=share)))
    publish_clips(ws, pool)
    publish_table(ws, "voted_ranking/motive", "ranking", {name: ranked[name].tolist() for name in ranked.columns})
    return ws


def test_the_worst_share_is_listed_worst_first_and_ties_go_by_clip_id():
    found = harmful_clips(ranking([0.2, -0.1, -0.3, -0.1, -0.2, 0.4], 3))
    assert found["clip_id"].tolist() == [NAMES[2], NAMES[4], NAMES[1]]
    assert found["mean_influence"].tolist() == [-0.3, -0.2, -0.1]
    assert found["rank"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("mean_influence", "num"), [([0.1, 0.2, 0.3], 0), ([0.0, 0.0, 0.0], 0), ([-0.1, 0.2, 0.3], 1), ([0.1], 0)])
def test_a_clip_that_does_not_lower_anything_by_its_influence_is_not_harmful(mean_influence, num):
    assert len(harmful_clips(ranking(mean_influence, min(2, len(mean_influence))))) == num


def test_the_view_lists_the_same_clips_for_every_variant(make_config):
    ws = Workspace(make_config(CONFIG.format(share=0.1)))
    rng = np.random.default_rng(0)
    tables = {variant: ranking(np.round(rng.normal(size=20), 1).tolist(), 6) for variant in ("motive", "no_mask")}
    ws.scores.publish({("ranking", variant): table.assign(variant=variant) for variant, table in tables.items()})
    for variant, table in tables.items():
        expected = harmful_clips(table)
        found = ws.scores.query(f"SELECT clip_id, mean_influence, rank FROM harmful WHERE variant = '{variant}' ORDER BY rank").df()
        assert 1 < len(expected) < 20
        pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_dtype=False)


def test_the_arm_is_the_pool_without_as_many_as_the_other_arms_choose(make_config):
    mean = np.random.default_rng(1).normal(size=20).tolist()
    ws = arm_workspace(make_config, 0.25, NAMES, ranking(mean, 5))
    subset = publish_subset(ws, "without_harmful").table("subset")
    assert subset["clip_id"].tolist() == [NAMES[n] for n in np.argsort(mean)[::-1][:15]], "the best first"
    assert subset["rank"].tolist() == list(range(1, 16))
    full = publish_subset(ws, "full").table("subset")
    assert set(full["clip_id"]) - set(subset["clip_id"]) == set(worst_first(ranking(mean, 5))["clip_id"].head(5))


def test_a_clip_without_a_gradient_stays_in_the_arm(make_config):
    ws = arm_workspace(make_config, 0.1, NAMES, ranking(np.linspace(-1, 1, 18).tolist(), 2))
    subset = publish_subset(ws, "without_harmful").table("subset")["clip_id"].tolist()
    assert sorted(subset) == NAMES[2:], "of twenty clips the two worst are left out"
    assert subset[-2:] == NAMES[18:]


@pytest.mark.parametrize(("share", "num_clips", "left"), [(1.0, 20, 1), (0.1, 1, 1), (0.1, 2, 1)])
def test_at_least_one_clip_is_left(make_config, share, num_clips, left):
    ws = arm_workspace(make_config, share, NAMES[:num_clips], ranking(np.linspace(-1, 1, num_clips).tolist(), num_clips))
    assert publish_subset(ws, "without_harmful").table("subset")["clip_id"].tolist() == NAMES[num_clips - left : num_clips]
