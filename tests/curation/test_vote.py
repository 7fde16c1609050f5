"""The eligible pool and the majority vote (eq. 18)."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motive_pipeline.curation import vote
from motive_pipeline.curation.pool import publish_eligible_pool
from motive_pipeline.curation.vote import Votes, majority_vote, num_selected, publish_ranking, ranking_order, threshold
from motive_pipeline.errors import GateFailed
from motive_pipeline.storage.workspace import Reject, Workspace
from tests.curation_fixtures import clip_names, publish_clips, publish_gradients, publish_influence_matrix, publish_table, unit_rows

SCORES = np.random.default_rng(3).standard_normal((5, 23)).astype(np.float32)


def vote_loop(influence: np.ndarray, percentile: float) -> tuple[list[int], list[float]]:
    """Votes and means, clip by clip, with the linearly interpolated percentile in float64."""
    votes, means = [0] * influence.shape[1], [0.0] * influence.shape[1]
    for scores in influence.astype(np.float64):
        tau = np.percentile(scores, percentile)
        for clip, score in enumerate(scores):
            votes[clip] += score > tau
            means[clip] += score
    return votes, [mean / len(influence) for mean in means]


@pytest.mark.parametrize("percentile", [0.0, 12.5, 50.0, 90.0, 95.4, 99.9])
def test_votes_are_those_of_the_loop_with_numpys_percentile(percentile: float) -> None:
    votes, means = vote_loop(SCORES, percentile)
    found = majority_vote([SCORES], percentile)
    assert found.votes_N.tolist() == votes
    assert found.mean_influence_N.tolist() == means, "the mean is summed over the queries in their order"
    assert found.num_queries == 5


def test_the_threshold_is_a_score_and_a_clip_must_lie_above_it() -> None:
    scores = np.array([3, 1, 2, 5, 4], np.float32)
    assert threshold(scores, 50.0) == 3
    assert threshold(scores, 49.9) == 2, "position floor(0.499 * 4) = 1 in ascending order"
    assert majority_vote([scores[None]], 50.0).votes_N.tolist() == [0, 0, 0, 1, 1]
    assert threshold(np.arange(11, dtype=np.float32), 70.0) == 7, "0.7 * 10 is 7, not a little more or less"
    assert threshold(np.arange(101, dtype=np.float32), 29.0) == 29, "the percentile is the decimal number of the config"


def test_clips_are_counted_some_at_a_time(monkeypatch) -> None:
    whole = majority_vote([SCORES], 80.0)
    monkeypatch.setattr(vote, "SPAN", 7)
    found = majority_vote([SCORES], 80.0)
    assert found.votes_N.tolist() == whole.votes_N.tolist()
    assert found.mean_influence_N.tolist() == whole.mean_influence_N.tolist()


def test_equal_scores_at_the_threshold_get_no_vote() -> None:
    scores = np.array([[1, 1, 1, 1, 0]], np.float32)
    assert majority_vote([scores], 50.0).votes_N.tolist() == [0, 0, 0, 0, 0]
    assert majority_vote([scores], 0.0).votes_N.tolist() == [1, 1, 1, 1, 0]


def test_each_query_has_its_own_threshold() -> None:
    scores = np.stack([SCORES[0], 1000 + SCORES[1]])
    separate = majority_vote([SCORES[:1]], 80.0).votes_N + majority_vote([SCORES[1:2]], 80.0).votes_N
    assert majority_vote([scores], 80.0).votes_N.tolist() == separate.tolist()


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_the_vote_is_the_same_for_any_blocks_of_queries(cuts: list[int]) -> None:
    edges = [0, *np.minimum(np.cumsum(cuts), 5), 5]
    found = majority_vote((SCORES[a:b] for a, b in itertools.pairwise(edges)), 90.0)
    whole = majority_vote([SCORES], 90.0)
    assert found.votes_N.tolist() == whole.votes_N.tolist()
    assert found.mean_influence_N.tobytes() == whole.mean_influence_N.tobytes()


def test_a_vote_without_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        majority_vote([], 90.0)


def test_ranking_is_by_votes_then_mean_then_clip_id() -> None:
    nameless = Votes(votes_N=np.zeros(40, np.int64), mean_influence_N=np.full(40, np.nan), num_queries=1)
    assert ranking_order(nameless).tolist() == list(range(40))
    votes = Votes(votes_N=np.array([1, 2, 2, 1, 2]), mean_influence_N=np.array([9, 0.5, 0.7, 9, 0.5]), num_queries=3)
    assert ranking_order(votes).tolist() == [2, 1, 4, 0, 3]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0])), min_size=1, max_size=60),
    st.sampled_from([3, 2**15, 2**40]),
)
def test_the_order_is_that_of_a_stable_sort(clips: list[tuple[int, float]], num_queries: int) -> None:
    """The more queries, the larger the numbers of votes."""
    scale = num_queries // 3
    votes = Votes(
        votes_N=np.array([count * scale for count, _ in clips]),
        mean_influence_N=np.array([mean for _, mean in clips]),
        num_queries=num_queries,
    )
    assert ranking_order(votes).tolist() == sorted(range(len(clips)), key=lambda clip: (-clips[clip][0], -clips[clip][1], clip))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([np.nan, -1.0, 1.0])), min_size=1, max_size=60))
def test_a_mean_of_nan_counts_as_the_lowest(clips: list[tuple[int, float]]) -> None:
    votes = Votes(votes_N=np.array([count for count, _ in clips]), mean_influence_N=np.array([mean for _, mean in clips]), num_queries=2)

    def key(clip: int) -> tuple[int, bool, float, int]:
        count, mean = clips[clip]
        return -count, np.isnan(mean), 0.0 if np.isnan(mean) else -mean, clip

    assert ranking_order(votes).tolist() == sorted(range(len(clips)), key=key)


@pytest.mark.parametrize(
    ("clips", "share", "expected"),
    [(320, 0.1, 32), (25, 0.1, 3), (24, 0.1, 2), (3, 0.1, 1), (1, 1e-9, 1), (7, 1.0, 7), (10**6, 0.01, 10**4)],
)
def test_the_number_chosen(clips: int, share: float, expected: int) -> None:
    assert num_selected(clips, share) == expected


@pytest.fixture
def ws(make_config) -> Workspace:
    return Workspace(make_config("clips: {source: demo}\nqueries: {source: demo}\nvote: {percentile: 80}\nsubset: {share: 0.2}\n"))


def test_publishes_the_ranking_of_the_pool(ws: Workspace) -> None:
    names = clip_names(23)
    pool = [name for position, name in enumerate(names) if position not in (4, 11)]
    publish_clips(ws, pool)
    publish_influence_matrix(ws, "motive", clip_names(5, 100), names, SCORES)
    publication = publish_ranking(ws, "motive")
    ranking = publication.table("ranking")
    assert ranking.columns.tolist() == ["clip_id", "votes", "mean_influence", "rank", "selected"]
    votes, means = vote_loop(np.delete(SCORES, [4, 11], axis=1), 80)
    expected = sorted(range(21), key=lambda n: (-votes[n], -means[n], pool[n]))
    assert ranking["clip_id"].tolist() == [pool[n] for n in expected], "thresholds are taken over the pool alone"
    assert ranking["votes"].tolist() == [votes[n] for n in expected]
    assert ranking["mean_influence"].tolist() == [means[n] for n in expected]
    assert ranking["rank"].tolist() == list(range(1, 22))
    assert ranking["selected"].tolist() == [True] * 4 + [False] * 17
    table = ws.scores.query("SELECT * FROM ranking ORDER BY rank").df()
    assert table["clip_id"].tolist() == ranking["clip_id"].tolist()
    assert set(table["variant"]) == {"motive"}
    assert publication.facts["best_clips"][0]["clip_id"] == pool[expected[0]]
    assert publish_ranking(ws, "motive").data_version == publication.data_version


def publish_with_gradients(ws: Workspace, *, pool: list[str], accepted: list[str], rejected: list[str]) -> None:
    """A pool, the gradients of ``motive`` for some clips with the rejects of others, and their influence."""
    publish_clips(ws, pool)
    publish_gradients(
        ws,
        "projected_gradients/motive",
        accepted,
        unit_rows(len(accepted), 8),
        rejects=[
            Reject(path=f"/clips/{clip}.mp4", clip_id=clip, stage="projected_gradients/motive", reason="not_finite", detail="")
            for clip in rejected
        ],
    )
    publish_influence_matrix(ws, "motive", clip_names(5, 100), accepted, SCORES[:, : len(accepted)])


def test_a_pool_clip_without_influence_stops_the_ranking(ws: Workspace) -> None:
    publish_with_gradients(ws, pool=clip_names(24), accepted=clip_names(22), rejected=clip_names(23)[22:])
    with pytest.raises(GateFailed, match="1 clips of eligible_pool have no influence"):
        publish_ranking(ws, "motive")


def test_a_clip_whose_gradient_was_rejected_is_eligible_and_not_ranked(ws: Workspace) -> None:
    publish_with_gradients(ws, pool=clip_names(23), accepted=clip_names(22), rejected=clip_names(23)[22:])
    publication = publish_ranking(ws, "motive")
    assert set(publication.table("ranking")["clip_id"]) == set(clip_names(22))
    assert publication.facts["eligible clips without a gradient"] == 1
    assert publication.facts["selected"] == num_selected(23, ws.config.subset.share)


def test_a_ranking_without_clips_is_refused(ws: Workspace) -> None:
    publish_with_gradients(ws, pool=clip_names(2), accepted=clip_names(3, 50), rejected=clip_names(2))
    with pytest.raises(GateFailed, match="rejected every clip of eligible_pool"):
        publish_ranking(ws, "motive")


def publish_screening(ws: Workspace, *, latents: list[str], masks: list[str]) -> None:
    publish_table(ws, "latents", "index", {"clip_id": latents})
    publish_table(ws, "motion_masks", "index", {"clip_id": masks})


def test_the_pool_is_what_every_stage_before_attribution_accepted(ws: Workspace) -> None:
    names = clip_names(6)
    publish_screening(ws, latents=names[:5], masks=names[1:])
    publication = publish_eligible_pool(ws)
    assert publication.table("pool")["clip_id"].tolist() == names[1:5]
    assert publication.facts["accepted by latents"] == 5


def test_an_empty_pool_stops_the_pipeline(ws: Workspace) -> None:
    names = clip_names(4)
    publish_screening(ws, latents=names[2:], masks=names[:2])
    with pytest.raises(GateFailed, match="motion_masks: 2"):
        publish_eligible_pool(ws)
