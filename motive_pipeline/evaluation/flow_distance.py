"""The distance between the motion of generated videos and that of the query videos, by optical flow alone (backend ``dis``).

There are two distances, both 0 for motion like the queries'. The held-out queries are used if there are any, as in the causal check.

- ``flow_histogram_distance``, one value for each video: the total variation (half the sum of absolute differences) between the video's
  histogram of flow by direction and speed and the mean histogram of the queries. From 0 to 1, it is the share of the video's motion whose
  direction or speed differs from theirs.
- ``flow_frechet_distance``, one value for each training: the Fréchet distance of two Gaussians (Dowson and Landau 1982; FID, Heusel et al.
  2017), d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), fitted to features of every pair of frames: the mean speed in eight
  directions, of the flow and of its change to the next pair (as in FVMD, Liu et al. 2024, which counts velocities and accelerations of
  tracked points). Its unit is a speed: shorter sides of the picture a second.

The Fréchet distance is not a mean over videos. Its interval comes from resampling prompts, with all their videos, and computing the distance
again. With few videos the distance is too large. So each training is measured separately: all arms then have the same number of videos, and
the excess is the same for all and cancels in a difference. The resampled distances, which are larger still, are shifted to the arm's own
value. The queries are not resampled: they define the wanted motion.

Axes: S trainings, J prompts, B resamples, K pairs of frames, D features, H histogram bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.bootstrap import Estimate, prompt_resamples, resampled_interval
from motive_pipeline.graph.metrics import FRECHET
from motive_pipeline.motion.histogram import flow_histogram, speed_by_direction, velocity

FEATURES = [f"{kind}_{number}" for kind in ("velocity", "change") for number in range(8)]
ALL_PROMPTS = "all prompts"
"""``unit`` of a value that covers all prompts of a training at once."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """A mean and a covariance, or many of each along leading axes."""

    mean_D: Float[np.ndarray, "*x D"]
    cov_DD: Float[np.ndarray, "*x D D"]


@dataclass(frozen=True, kw_only=True)
class FlowMoments:
    """The first two moments of the features of each prompt's videos, by training, for the prompts that every training has."""

    trainings: Sequence[int]
    prompts: Sequence[int]
    num_videos_S: Sequence[int]
    """The number of videos of each training."""
    mean_SJD: Float[np.ndarray, "S J D"]
    square_SJDD: Float[np.ndarray, "S J D D"]


def flow_row(flow_PHW2: Float[np.ndarray, "P H W 2"], fps: float) -> dict[str, Float32[np.ndarray, ...]]:
    """The stored summary of a video's sampled flow: ``flow_histogram`` [bin] and ``flow_features`` [pair, feature]."""
    velocity_PHW2 = velocity(flow_PHW2, fps)
    return {"flow_histogram": flow_histogram(velocity_PHW2), "flow_features": flow_features(velocity_PHW2)}


def flow_features(velocity_PHW2: Float[np.ndarray, "P H W 2"]) -> Float32[np.ndarray, "K D"]:
    """For each pair of frames except the last: the flow's speed by direction, and that of the change to the next pair's flow.

    A video with one pair has that pair's speed and no change.
    """
    speed_PA = speed_by_direction(velocity_PHW2)
    change_PA = speed_by_direction(np.diff(velocity_PHW2, axis=0)) if len(velocity_PHW2) > 1 else np.zeros_like(speed_PA)
    return np.concatenate([speed_PA[: len(change_PA)], change_PA], axis=1).astype(np.float32)


def histogram_distance(histogram_H: Float[np.ndarray, " H"], other_H: Float[np.ndarray, " H"]) -> float:
    """The total variation between two histograms that each sum to 1."""
    return float(np.abs(histogram_H.astype(np.float64) - other_H).sum() / 2)


def gaussian(features_KD: Float[np.ndarray, "K D"]) -> Gaussian:
    """Mean and (biased) covariance of the features."""
    features_KD = features_KD.astype(np.float64)
    mean_D = features_KD.mean(0)
    return Gaussian(mean_D=mean_D, cov_DD=features_KD.T @ features_KD / len(features_KD) - np.outer(mean_D, mean_D))


def frechet_distance(many: Gaussian, one: Gaussian) -> Float[np.ndarray, "*x"]:
    """The Fréchet distance (not squared) of each of ``many`` to ``one``."""
    root_DD = _matrix_root(one.cov_DD)
    eigenvalues = np.linalg.eigvalsh(root_DD @ many.cov_DD @ root_DD).clip(0)
    traces = np.trace(many.cov_DD, axis1=-2, axis2=-1) + np.trace(one.cov_DD) - 2 * np.sqrt(eigenvalues).sum(-1)
    square = ((many.mean_D - one.mean_D) ** 2).sum(-1) + traces
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def _matrix_root(cov_DD: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    values_D, vectors_DD = np.linalg.eigh(cov_DD)
    return (vectors_DD * np.sqrt(values_D.clip(0))) @ vectors_DD.T


def flow_moments(flow: pd.DataFrame) -> FlowMoments:
    """The moments of a table with training, prompt_index and the columns :data:`FEATURES`. Each prompt counts once, however many videos it has."""
    trainings = sorted(set(flow["training"]))
    groups = {key: rows.to_numpy(np.float64) for key, rows in flow.groupby(["training", "prompt_index"])[FEATURES]}
    prompts = [int(prompt) for prompt in sorted(set(flow["prompt_index"])) if all((training, prompt) in groups for training in trainings)]
    if not prompts:
        raise GateFailed("no prompt has a video of every training. Materialize generated_videos again.")
    cells = [[groups[training, prompt] for prompt in prompts] for training in trainings]
    videos = set(zip(flow["training"].tolist(), flow["prompt_index"].tolist(), flow["n"].tolist(), strict=True))
    return FlowMoments(
        trainings=trainings,
        prompts=prompts,
        num_videos_S=[sum(video[0] == training and video[1] in prompts for video in videos) for training in trainings],
        mean_SJD=np.array([[rows.mean(0) for rows in row] for row in cells]),
        square_SJDD=np.array([[rows.T @ rows / len(rows) for rows in row] for row in cells]),
    )


def distances(found: FlowMoments, queries: Gaussian, weight_BJ: Float[np.ndarray, "B J"]) -> Float[np.ndarray, "S B"]:
    """The Fréchet distance of each training under each weighting of the prompts (weights sum to 1)."""
    mean_SBD = weight_BJ @ found.mean_SJD
    num_trainings, num_prompts, size = found.mean_SJD.shape
    square_SBE = weight_BJ @ found.square_SJDD.reshape(num_trainings, num_prompts, size * size)
    cov_SBDD = square_SBE.reshape(*square_SBE.shape[:2], size, size) - mean_SBD[..., :, None] * mean_SBD[..., None, :]
    return frechet_distance(Gaussian(mean_D=mean_SBD, cov_DD=cov_SBDD), queries)


@dataclass(frozen=True, kw_only=True)
class FlowDistances:
    """The Fréchet distances of several arms to the same queries, with their intervals."""

    arms: Mapping[str, FlowMoments]
    queries: Gaussian
    num_samples: int
    _found: dict[tuple[str, tuple[int, ...]], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, flows: Mapping[str, pd.DataFrame], query_flow: pd.DataFrame, *, num_samples: int) -> FlowDistances:
        """From the tables ``flow`` of each arm and ``query_flow``."""
        queries = gaussian(query_flow[FEATURES].to_numpy(np.float64))
        return cls(arms={arm: flow_moments(flow) for arm, flow in flows.items()}, queries=queries, num_samples=num_samples)

    def units(self, arm: str) -> pd.DataFrame:
        """The arm's distances as rows of :func:`~.values.unit_values`: one row for each training, over all its prompts."""
        found = self.arms[arm]
        value_S = self._values(arm, found.prompts)[0]
        rows = {"training": list(found.trainings), "value": value_S, "num": list(found.num_videos_S)}
        return pd.DataFrame(rows).assign(arm=arm, unit=ALL_PROMPTS, metric=FRECHET.name, backend=FRECHET.backend)

    def estimate(self, arm: str, *, training: int | None = None) -> Estimate:
        """The arm's mean over its trainings, or one of them, with its interval."""
        prompts = self.arms[arm].prompts
        value_S, resampled_SB = self._values(arm, prompts)
        chosen = slice(None) if training is None else [list(self.arms[arm].trainings).index(training)]
        return resampled_interval(value_S[chosen], resampled_SB[chosen], num_prompts=len(prompts), bounds=FRECHET.bounds)

    def difference(self, arm: str, other: str) -> Estimate:
        """``arm`` - ``other`` over their common prompts, with the same resamples for both, training k against training k."""
        common = sorted(set(self.arms[arm].prompts) & set(self.arms[other].prompts))
        if not common:
            raise GateFailed(
                f"eval_scores: {arm} and {other} have no prompt in common. One of the two is out of date: materialize both again."
            )
        first, second = self._values(arm, common), self._values(other, common)
        return resampled_interval(first[0] - second[0], first[1] - second[1], num_prompts=len(common))

    def _values(self, arm: str, prompts: Sequence[int]) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, "S B"]]:
        """The distance of each training over ``prompts`` and over resamples of them. Each result is computed once."""
        key = (arm, tuple(prompts))
        if key not in self._found:
            whole = self.arms[arm]
            columns = [list(whole.prompts).index(prompt) for prompt in prompts]
            chosen = replace(whole, prompts=prompts, mean_SJD=whole.mean_SJD[:, columns], square_SJDD=whole.square_SJDD[:, columns])
            everything_1J = np.full((1, len(prompts)), 1 / len(prompts))
            resamples_BJ = prompt_resamples(len(prompts), self.num_samples)
            self._found[key] = distances(chosen, self.queries, everything_1J)[:, 0], distances(chosen, self.queries, resamples_BJ)
        return self._found[key]
