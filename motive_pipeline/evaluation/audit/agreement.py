"""How far two rankings agree: rank correlation, overlap of their best clips, and what a random projection costs.

Axis suffixes: Q queries, N clips, P projected entries. Higher scores are better; ties share their mean rank.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats


def spearman(first: Float[np.ndarray, "*R S"], second: Float[np.ndarray, "*R S"]) -> Float[np.ndarray, "*R"]:
    """Spearman's rank correlation along the last axis, for each of the other places. NaN where one side is constant or has fewer than two entries.

    It is Pearson's correlation of the ranks, with ties at their mean rank.
    """
    ranked = [stats.rankdata(side, axis=-1) for side in (first, second)]
    deviation = [ranks - ranks.mean(axis=-1, keepdims=True) for ranks in ranked]
    covariance = (deviation[0] * deviation[1]).sum(axis=-1)
    scale = np.sqrt((deviation[0] ** 2).sum(axis=-1) * (deviation[1] ** 2).sum(axis=-1))
    return np.divide(covariance, scale, out=np.full_like(covariance, np.nan), where=scale > 0)


def correlation(first_N: Shaped[np.ndarray, " N"], second_N: Shaped[np.ndarray, " N"]) -> tuple[float, float]:
    """Spearman's correlation of two columns and its standard error over N independent clips, (1 - r^2) / sqrt(N - 3) by Fisher's z. NaN below four."""
    if len(first_N) < 4:
        return math.nan, math.nan
    found = float(spearman(np.asarray(first_N, np.float64), np.asarray(second_N, np.float64)))
    return found, (1 - found**2) / math.sqrt(len(first_N) - 3)


def top_overlap(first_N: Float[np.ndarray, " N"], second_N: Float[np.ndarray, " N"], count: int) -> float:
    """The share of the ``count`` best clips of one ranking that are among those of the other. Of equal scores the earlier clip is the better one."""
    best = [set(np.argsort(-side_N, kind="stable")[:count].tolist()) for side_N in (first_N, second_N)]
    return len(best[0] & best[1]) / count


def set_overlap(first: Shaped[np.ndarray, " K"], second: Shaped[np.ndarray, " M"]) -> float:
    """The share of ``first`` that is in ``second``."""
    return float(np.isin(first, second).mean())


def cosines(first_QP: Float[np.ndarray, "Q P"], second_NP: Float[np.ndarray, "N P"], num_entries: int) -> Float[np.ndarray, "Q N"]:
    """The cosines of the first ``num_entries`` entries of each row; 0 with a zero row."""
    sides = []
    for rows in (first_QP, second_NP):
        head = np.asarray(rows[:, :num_entries], np.float64)
        length = np.linalg.norm(head, axis=1, keepdims=True)
        sides.append(np.divide(head, length, out=np.zeros_like(head), where=length > 0))
    return sides[0] @ sides[1].T


def pairs_of(rows_NP: Float[np.ndarray, "N P"]) -> Float[np.ndarray, " M"]:
    """The cosine of every two different rows, in the order (0, 1), (0, 2), ..., (1, 2), ..."""
    upper = np.triu_indices(len(rows_NP), k=1)
    return cosines(rows_NP, rows_NP, rows_NP.shape[1])[upper]


def left_out_error(features: list[Float[np.ndarray, "N P"]]) -> float:
    """The jackknife standard error, over the N items, of the rank correlation between the pairs of two sets of features.

    Pairs share items, so they are not independent; leaving an item out takes all its pairs. NaN below five items: four leave three pairs.
    """
    num_items = len(features[0])
    if num_items < 5:
        return math.nan
    without = [np.delete(np.arange(num_items), item) for item in range(num_items)]
    found = np.array([float(spearman(pairs_of(features[0][kept]), pairs_of(features[1][kept]))) for kept in without])
    return float(np.sqrt((num_items - 1) / num_items * ((found - found.mean()) ** 2).sum()))


def predicted_cosine_error(cosine: Float[np.ndarray, "*R"], num_entries: int, *, of: int | None = None) -> float:
    """The root mean square error that theory predicts for cosines after a random projection to ``num_entries`` entries (Johnson-Lindenstrauss).

    A cosine c of projected vectors varies about the exact one with variance (1 - c^2)^2 / D' (Kaban, KDD 2015; as the sample correlation of
    normal pairs). Against a projection to ``of`` entries of which the first ``num_entries`` are the narrow one, what both share cancels:
    (1 - c^2)^2 (1 / D' - 1 / ``of``).
    """
    variance = max(0.0, 1 / num_entries - (0.0 if of is None else 1 / of))
    return float(np.sqrt(np.mean((1 - np.asarray(cosine) ** 2) ** 2) * variance))


def prefix_widths(num_entries: int, *, narrowest: int = 64) -> list[int]:
    """The powers of two from ``narrowest`` to below ``num_entries``."""
    widths: list[int] = []
    width = narrowest
    while width < num_entries:
        widths.append(width)
        width *= 2
    return widths


def hashed_sample(ids: Shaped[np.ndarray, " N"], count: int, what: str) -> Int[np.ndarray, " n"]:
    """The positions of the ``count`` ids with the smallest hash of (``what``, id), in the order of the hash: an id that joins replaces at most one."""
    keyed = sorted((hashlib.sha256(f"{what} ".encode() + bytes(each)).digest(), position) for position, each in enumerate(ids.tolist()))
    return np.array([position for _, position in keyed[:count]], np.int64)
