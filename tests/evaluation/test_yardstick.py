"""The tables of benchmarks/yardstick.py: what agrees, what is one group, what is a ceiling."""

import numpy as np
import pytest

from benchmarks.common import REPOSITORY
from benchmarks.yardstick import PARAMETER_GROUPS, Yardstick, agreement, ceilings, class_scores, group_of, resampled
from motive_pipeline.config import load_config
from motive_pipeline.models.load import load_model

RANDOM = np.random.default_rng(0)
BY_QUERY_QN = RANDOM.standard_normal((4, 100))
HELD_OUT_N = BY_QUERY_QN.mean(axis=0)


def test_the_yardstick_agrees_with_itself_and_disagrees_with_its_opposite() -> None:
    own = agreement(BY_QUERY_QN, BY_QUERY_QN, HELD_OUT_N, share=0.1, percentile=90.0)
    assert [own.by_query, own.mean, own.held_out, own.top_vote, own.top_mean] == pytest.approx([1.0] * 5)
    opposite = agreement(-BY_QUERY_QN, BY_QUERY_QN, HELD_OUT_N, share=0.1, percentile=90.0)
    assert [opposite.by_query, opposite.mean, opposite.held_out, opposite.top_mean] == pytest.approx([-1.0, -1.0, -1.0, 0.0])


def test_the_best_tenth_is_that_of_the_held_out_queries_and_the_vote_that_of_the_queries() -> None:
    found = agreement(BY_QUERY_QN, BY_QUERY_QN, -HELD_OUT_N, share=0.1, percentile=90.0)
    assert (found.top_vote, found.top_mean, found.held_out) == pytest.approx((1.0, 0.0, -1.0))


def test_the_standard_error_is_that_of_other_samples_of_clips() -> None:
    """Fisher's z: (1 - r^2) / sqrt(N - 3), and somewhat more for ranks."""
    scores_QN = BY_QUERY_QN + RANDOM.standard_normal(BY_QUERY_QN.shape)
    error = resampled([scores_QN], BY_QUERY_QN, HELD_OUT_N, 200).std(axis=0)[0, 2]
    r = agreement(scores_QN, BY_QUERY_QN, HELD_OUT_N, share=0.1, percentile=90.0).held_out
    assert error == pytest.approx((1 - r**2) / np.sqrt(97), rel=0.4)


def test_the_ceiling_is_the_root_of_the_reliability_of_the_mean_of_the_orders() -> None:
    """Orders are the truth and as much noise: one has reliability 1/2, the mean of four 4/5 (a rank correlation is a little lower)."""
    truth_QN = RANDOM.standard_normal((3, 4000))
    by_query_TQN = truth_QN + RANDOM.standard_normal((4, *truth_QN.shape))
    yardstick = Yardstick(
        by_query_TQN=by_query_TQN, held_out_TN=by_query_TQN[:, 0], query_ids=list("abc"), clip_id_N=np.arange(4000).astype("S16")
    )
    assert ceilings(yardstick) == pytest.approx((np.sqrt(4 / 5),) * 2, abs=0.02)


def test_every_parameter_of_the_embedded_model_is_in_one_group() -> None:
    model = load_model(load_config(REPOSITORY / "motive.yaml").model, threads=1)
    groups = [group_of(name) for name, _ in model.transformer.named_parameters()]
    assert set(groups) == set(PARAMETER_GROUPS)
    assert group_of("blocks.0.attn1.norm_q.weight") == "attention"
    assert group_of("scale_shift_table") == "norms and modulation"


def test_the_true_class_has_the_flawed_clips_too() -> None:
    kinds = {"a": "good", "b": "flicker", "c": "akin", "d": "rest"}
    whole, unflawed = class_scores(kinds, ["q"], np.array(list("abcd"), "S16"))
    assert whole.score_QN.tolist() == [[1, 1, 0, 0]]
    assert unflawed.score_QN.tolist() == [[1, 0, 0, 0]]
