"""``influence.preconditioner: trak``: inner products in the metric of the clips' own features (Park et al., "TRAK", ICML 2023, section 3).

    I(v, q) = phi(q)^T K^-1 phi(v),     K = Phi^T Phi / m + lambda * 1,     m = the mean of Phi^T Phi's diagonal

Phi [N, p] holds the features of all clips: of unit length with ``influence.similarity: cosine``, as long as the gradients with ``dot``. A
direction that many clips share counts less, so what distinguishes a clip counts more. lambda is relative to the mean diagonal, so it means the
same for any number of clips: a large one leaves the plain inner product (divided by lambda); a small one needs many more clips than p. Only the
kernel of TRAK's estimator is used: one model, no ensemble, no output weights (D-TRAK, Zheng et al., ICLR 2024).

K^-1 is applied to the queries. So the product with the clips is still the exact one of tiles.py, and adding a query changes no bit of another.
Adding a clip changes K, and so every score.

Axes: Q queries, N clips, n clips of a tile, p entries of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import zarr
from jaxtyping import Float32, Float64

from motive_pipeline.attribution.tiles import in_order, on_grid, row_factor

TILE_CLIPS = 4096


@dataclass(frozen=True, kw_only=True)
class Directions:
    """K^-1 phi(q) for each query, as unit rows and their lengths."""

    unit_Qp: Float32[np.ndarray, "Q p"]
    length_Q: Float64[np.ndarray, " Q"]


def gram_matrix(
    gradient_NP: zarr.Array, columns: slice, *, clip_norm_N: Float64[np.ndarray, " N"] | None, threads: int
) -> Float64[torch.Tensor, "p p"]:
    """Phi^T Phi over ``columns`` (p of them) of the stored rows, each scaled to unit length, or to its norm.

    Tiles of a fixed size are added in the order of the clips: equal inputs give equal bits for any number of ``threads``.
    """
    num_clips, proj_dim = gradient_NP.shape[0], columns.stop - columns.start

    def tile(start: int) -> Float64[torch.Tensor, "p p"]:
        stop = min(start + TILE_CLIPS, num_clips)
        rows = on_grid(np.asarray(gradient_NP[start:stop, columns]))
        features_np = rows.integers_RP.mul_(row_factor(rows, None if clip_norm_N is None else clip_norm_N[start:stop])[:, None])
        return features_np.T @ features_np

    gram_pp = torch.zeros((proj_dim, proj_dim), dtype=torch.float64)
    for _, part in in_order(tile, range(0, num_clips, TILE_CLIPS), threads=threads):
        gram_pp += part
    return gram_pp


def kernel_directions(
    queries_Qp: Float32[np.ndarray, "Q p"],
    gram_pp: Float64[torch.Tensor, "p p"],
    *,
    relative_lambda: float,
    query_norm_Q: Float64[np.ndarray, " Q"] | None = None,
) -> Directions:
    """K^-1 phi(q) for every query, each solved separately. If no clip has a gradient, K is lambda times the identity."""
    mean_diagonal = float(gram_pp.diagonal().mean())
    kernel_pp = gram_pp / (mean_diagonal if mean_diagonal > 0 else 1.0)
    kernel_pp.diagonal().add_(relative_lambda)
    root_pp = torch.linalg.cholesky(kernel_pp)
    rows = on_grid(queries_Qp)
    features_Qp = rows.integers_RP * row_factor(rows, query_norm_Q)[:, None]
    solved_Qp = torch.stack([torch.cholesky_solve(feature_p[:, None], root_pp)[:, 0] for feature_p in features_Qp])
    length_Q = torch.linalg.vector_norm(solved_Qp, dim=1)
    unit_Qp = torch.where(length_Q[:, None] > 0, solved_Qp / length_Q[:, None], 0.0)
    return Directions(unit_Qp=unit_Qp.float().numpy(), length_Q=length_Q.numpy())
