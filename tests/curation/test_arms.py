"""The arms: what each chooses, and that all choose equally many from the same pool."""

import numpy as np
import pytest

from motive_pipeline.curation.arms import highest, publish_subset, random_choice, require_subset
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph import ARMS
from motive_pipeline.storage.workspace import Workspace
from tests.curation_fixtures import clip_names, publish_clips, publish_table

NAMES = clip_names(40)
POOL = np.array(NAMES, dtype="S16")
MEAN_INFLUENCE = np.random.default_rng(6).permutation(40).astype(float) // 2 - 10
MAGNITUDE_PX = np.random.default_rng(5).permutation(40).astype(float)


def publish_rankings(ws: Workspace) -> dict[str, list[str]]:
    """Rankings of both variants, in different random orders; the tables lie on disk in no order."""
    orders = {}
    for seed, variant in enumerate(("motive", "no_mask")):
        order = np.random.default_rng(seed).permutation(40)
        orders[variant] = [NAMES[n] for n in order]
        shuffled = np.random.default_rng(9).permutation(40)
        columns = {
            "clip_id": [orders[variant][n] for n in shuffled],
            "rank": [int(n) + 1 for n in shuffled],
            # not in the order of ranks, which go by votes first
            "mean_influence": [float(MEAN_INFLUENCE[NAMES.index(orders[variant][n])]) for n in shuffled],
        }
        publish_table(ws, f"voted_ranking/{variant}", "ranking", columns)
    return orders


@pytest.fixture
def ws(make_config) -> Workspace:
    return Workspace(
        make_config(f"clips: {{source: demo}}\nqueries: {{source: demo}}\nsubset: {{share: 0.1, seed: 7}}\narms: [{', '.join(ARMS)}]\n")
    )


def test_every_arm_chooses_by_its_own_rule(ws: Workspace) -> None:
    publish_clips(ws, NAMES, MAGNITUDE_PX)
    orders = publish_rankings(ws)
    by_motion = sorted(range(40), key=lambda n: -MAGNITUDE_PX[n])[:4]
    expected = {
        "full": NAMES,
        "without_harmful": [NAMES[n] for n in sorted(range(40), key=lambda n: (MEAN_INFLUENCE[n], n))[4:][::-1]],
        "random": random_choice(POOL, 4, 7).astype(str).tolist(),
        "motion_magnitude": [NAMES[n] for n in by_motion],
        "bottom": [NAMES[n] for n in sorted(range(40), key=lambda n: (MEAN_INFLUENCE[n], n))[:4]],
        "no_mask": orders["no_mask"][:4],
        "motive": orders["motive"][:4],
    }
    for arm, clips in expected.items():
        publication = publish_subset(ws, arm)
        subset = publication.table("subset")
        assert subset["clip_id"].tolist() == clips, arm
        assert subset["rank"].tolist() == list(range(1, len(clips) + 1))
        px = [MAGNITUDE_PX[NAMES.index(clip)] for clip in clips]
        assert publication.facts["mean_motion_magnitude_px"] == pytest.approx(np.mean(px))
        assert publication.facts["first_clips"][0] == {
            "rank": 1, "clip_id": clips[0], "caption": f"clip {clips[0][-2:]}", "path": f"/clips/{clips[0]}.mp4", "motion_magnitude_px": px[0]
        }  # fmt: skip
        assert len(publication.facts["first_clips"]) == min(10, len(clips))
    table = ws.scores.query("SELECT arm, count(*) AS clips FROM subsets GROUP BY arm ORDER BY arm").df()
    assert dict(zip(table["arm"], table["clips"], strict=True)) == {
        "bottom": 4,
        "full": 40,
        "motion_magnitude": 4,
        "motive": 4,
        "no_mask": 4,
        "random": 4,
        "without_harmful": 36,
    }


def test_random_is_seeded_and_has_no_favourites() -> None:
    assert random_choice(POOL, 4, 1).tolist() == random_choice(POOL[::-1], 4, 1).tolist()
    assert set(random_choice(POOL, 4, 1)) != set(random_choice(POOL, 4, 2))
    times = dict.fromkeys(POOL.tolist(), 0)
    for seed in range(500):
        for clip in random_choice(POOL, 4, seed).tolist():
            times[clip] += 1
    # A clip is chosen with probability 0.1: 50 times of 500, deviation 6.7.
    assert min(times.values()) > 50 - 5 * 6.7
    assert max(times.values()) < 50 + 5 * 6.7


def test_a_clip_that_joins_the_pool_displaces_at_most_one() -> None:
    for seed in range(50):
        before = set(random_choice(POOL[:-1], 4, seed).tolist())
        after = set(random_choice(POOL, 4, seed).tolist())
        assert len(before - after) <= 1
        assert after - before <= {POOL[-1]}


def test_ties_in_motion_go_by_clip_id() -> None:
    assert highest(POOL, np.tile([1.0, 3.0], 20), 40).tolist() == [*POOL[1::2], *POOL[::2]]
    assert highest(POOL[:5], np.array([1.0, 3, 3, 1, 3]), 4).tolist() == POOL[[1, 2, 4, 0]].tolist()


@pytest.mark.parametrize(("share", "size"), [(1.0, 40), (1e-6, 1)])
def test_extreme_shares(make_config, share: float, size: int) -> None:
    ws = Workspace(make_config(f"clips: {{source: demo}}\nqueries: {{source: demo}}\nsubset: {{share: {share:f}}}\n"))
    publish_clips(ws, NAMES, MAGNITUDE_PX)
    publish_rankings(ws)
    for arm in ("random", "motion_magnitude", "motive"):
        subset = publish_subset(ws, arm).table("subset")
        assert len(subset) == size
        assert subset["clip_id"].nunique() == size


def test_a_ranking_of_another_pool_stops_the_arm(ws: Workspace) -> None:
    publish_clips(ws, NAMES[20:])
    publish_rankings(ws)
    with pytest.raises(GateFailed, match=r"curated_subset/motive: 2 different clips of eligible_pool expected.*voted_ranking/motive"):
        publish_subset(ws, "motive")
    assert not ws.has_published("curated_subset/motive")


@pytest.mark.parametrize("chosen", [POOL[:3], POOL[:5], POOL[[0, 1, 2, 2]], np.append(POOL[:3], np.array([b"x"], "S16"))])
def test_the_gate_refuses_a_wrong_subset(chosen: np.ndarray) -> None:
    with pytest.raises(GateFailed, match="4 different clips"):
        require_subset(ARMS["motive"], chosen, POOL, 4)


def test_a_subset_keeps_its_data_version_while_the_choice_stays(ws: Workspace) -> None:
    publish_clips(ws, NAMES, MAGNITUDE_PX)
    first = publish_subset(ws, "random")
    publish_clips(ws, NAMES, MAGNITUDE_PX + 1)
    assert publish_subset(ws, "random").data_version == first.data_version
