"""How far each way to attribute agrees with what clips really do to a fine-tune: metagradients through it, averaged over several orders of the clips.

    python -m benchmarks.yardstick --split spoiled --seed 0 --orders 6 --variants motive no_mask motive_plus "wide={draws: 16, mask: query}"

The fine-tune (benchmarks/metagradient.py) is the arms' loop on the whole pool, with small and few steps (pool_truth.PROTOCOL). A clip's *yardstick* is minus its metagradient: how much a target
falls for each unit of weight that the clip gains. Targets are the motion-weighted losses

- of each query that attribution asks for (a variant's influence is by query, so only these can be compared query by query), and
- of the mean of the held-out queries, which the causal check measures and no variant has seen: this one counts.

Both are taken under the draws of the causal check, whose noises attribution never uses. Printed are the reliability of the yardstick between orders, where each kind
of clip stands on it, and for every variant and control its rank correlation over clips (with the standard error of resampling the clips), the share of the ceiling
(the root of the yardstick's reliability) and how many of its best tenth are in the yardstick's; then single timesteps, groups of parameters and widths of the projection.

An order costs about (targets + 1) * steps * 3 training steps; finished ones are kept, and the next call goes on.

Axis suffixes: T orders, Q targets, N clips of the pool in order of their ids, D weights.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch.nn.utils import parameters_to_vector

from benchmarks.common import parsed_variants, use_diffusers_attention
from benchmarks.metagradient import WeightedTraining, mean_square_gradient, training_batches
from benchmarks.pool_truth import kinds_of, prepared
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.attribution.loss import mean_motion_weighted_loss
from motive_pipeline.attribution.loss_masks import LossMasks
from motive_pipeline.attribution.stage import load_gradients
from motive_pipeline.attribution.streaming import selected_parameters
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.vote import majority_vote, num_selected, ranking_order
from motive_pipeline.evaluation.audit.agreement import cosines, prefix_widths, set_overlap, spearman
from motive_pipeline.evaluation.audit.estimators import Scores, control_scores, variant_scores
from motive_pipeline.evaluation.audit.lds import ceiling, reliability, spearman_brown
from motive_pipeline.graph import Role
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.load import load_model, model_folder, model_hash
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.trainings import clips_by_shape

VERSION = 1
MOMENT_BATCHES = 40
"""Batches of the base model from which Adam's second moment is estimated."""

MOMENT_ORDER = 1_000_000
"""The order of these batches, which no fine-tune has."""

CLIPS_AT_ONCE = 32
"""Whole gradients that are in memory at once."""

TIMESTEPS = range(100, 1000, 100)
PARAMETER_GROUPS = {
    "attention": r"\.attn\d\.",
    "feed-forward": r"\.ffn\.",
    "norms and modulation": r"scale_shift_table|\.norm2\.|time_proj",
    "embeddings": r"patch_embedding|text_embedder|time_embedder",
    "proj_out": r"^proj_out",
}
"""Regular expressions over the names of the embedded model's parameters; each name is in one group."""


HEADER = """
| | a query | of its ceiling | mean of the queries | held-out | of its ceiling | minus the first | top 10 %, vote | top 10 %, mean |
|---|---:|---:|---:|---:|---:|---:|---:|---:|"""
"""Rank correlation with the yardstick of each query (mean), of the queries' mean and of the held-out queries' mean, and :class:`Agreement`'s overlaps."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """How much each target falls for each unit of weight that a clip gains in the fine-tune: of single queries, and of the mean of the held-out ones."""

    by_query_TQN: Float[np.ndarray, "T Q N"]
    held_out_TN: Float[np.ndarray, "T N"]
    query_ids: Sequence[str]
    clip_id_N: Shaped[np.ndarray, " N"]

    def of_orders(self, orders: slice) -> Yardstick:
        """The yardstick of some of the orders."""
        return Yardstick(
            by_query_TQN=self.by_query_TQN[orders],
            held_out_TN=self.held_out_TN[orders],
            query_ids=self.query_ids,
            clip_id_N=self.clip_id_N,
        )


class Targets:
    """The gradients of all targets at a model's weights: a row for each query of attribution, and one for the mean of the held-out queries."""

    def __init__(self, ws: Workspace, query_ids: Sequence[str]) -> None:
        self._latents, self._masks, self._held_out = LatentSet(ws, "query"), MaskSet(ws, "query"), HeldOutLoss(ws)
        self._frame_norm = ws.config.gradient.frame_norm
        self.query_ids = query_ids

    def content(self) -> list[Any]:
        """Everything that the targets depend on, besides the weights."""
        asked = [[each, self._latents.content(each), self._masks.content(each)] for each in self.query_ids]
        return [asked, self._held_out.key]

    def gradients(self, model: VideoModel) -> Float[torch.Tensor, "Q+1 D"]:
        """One row for each target, over the parameters in the model's order."""
        held_out = [self._gradient(model, query.clip_id) for query in self._held_out.queries]
        return torch.stack([*(self._gradient(model, query_id) for query_id in self.query_ids), torch.stack(held_out).mean(dim=0)])

    def _gradient(self, model: VideoModel, query_id: str) -> Float[torch.Tensor, " D"]:
        latents_CFHW, conditioning = self._latents.get(query_id)
        loss = mean_motion_weighted_loss(
            model,
            latents_CFHW,
            conditioning,
            mask_FHW=self._masks.get(query_id),
            draws=self._held_out.draws,
            frame_norm=self._frame_norm,
        )
        return parameters_to_vector(torch.autograd.grad(loss, list(model.transformer.parameters()), materialize_grads=True))


class FineTunes:
    """The fine-tunes of the whole pool from the base model, each with an order of its own."""

    def __init__(self, ws: Workspace, targets: Targets, *, steps: int) -> None:
        self._latents, self._targets = LatentSet(ws, "clip"), targets
        self.clip_id_N = load_pool(ws)
        self._clip_ids = self.clip_id_N.astype(str).tolist()
        self._clips = clips_by_shape(self._clip_ids, self._latents, asset="yardstick", chosen_by="the pool")
        self._settings = ws.config.finetune.model_copy(update={"steps": steps})
        self._section = ws.config.model.model_copy(update={"dtype": "float32"})
        self._threads = ws.config.engine.threads
        content = [[each, self._latents.content(each)] for each in self._clip_ids]
        self.key = digest("yardstick", VERSION, model_hash(ws), self._settings.model_dump(mode="json"), content, targets.content())
        """Everything that the metagradients of an order depend on."""

    def metagradients(self, order: int) -> Float[np.ndarray, "Q+1 N"]:
        """The derivative of each target by the weight of each clip, for the fine-tune in this order."""
        model = self._base()
        batches = training_batches(model, self._clips, self._latents.get, self._settings, order=order)
        training = WeightedTraining(model, batches, self._settings, clip_ids=self._clip_ids, second_D=self._second_moments_D)
        states = training.states()
        training.load_result(states)
        return training.metagradients(states, self._targets.gradients(model)).numpy()

    @cached_property
    def _second_moments_D(self) -> Float[torch.Tensor, " D"]:
        model, settings = self._base(), self._settings.model_copy(update={"steps": MOMENT_BATCHES})
        return mean_square_gradient(model, training_batches(model, self._clips, self._latents.get, settings, order=MOMENT_ORDER), settings)

    def _base(self) -> VideoModel:
        model = load_model(self._section, threads=self._threads, path=model_folder(self._section))
        model.transformer.requires_grad_(True)
        use_diffusers_attention(model)
        return model


def measured_yardstick(ws: Workspace, query_ids: Sequence[str], *, steps: int, num_orders: int) -> Yardstick:
    """The metagradients of each order; an order that is there already is read."""
    fine_tunes = FineTunes(ws, Targets(ws, query_ids), steps=steps)
    found = []
    for order in range(num_orders):
        file = ws.root / "yardstick" / f"{fine_tunes.key}-{order}.npy"
        if not file.is_file():
            started = time.perf_counter()
            file.parent.mkdir(exist_ok=True)
            np.save(file, fine_tunes.metagradients(order))
            print(f"order {order}: {time.perf_counter() - started:.0f} s", flush=True)
        found.append(-np.load(file))
    drop_TQN = np.stack(found)
    return Yardstick(by_query_TQN=drop_TQN[:, :-1], held_out_TN=drop_TQN[:, -1], query_ids=query_ids, clip_id_N=fine_tunes.clip_id_N)


def exact_scores(ws: Workspace, variant: str, query_ids: Sequence[str], clip_id_N: Shaped[np.ndarray, " N"]) -> list[Scores]:
    """The cosine of unprojected gradients of the variant: over all parameters, and over each group of them."""
    gradient = ws.config.of_variant(variant).gradient.model_copy(update={"projection": "exact"})
    model = load_model(ws.config.model, threads=ws.config.engine.threads, path=model_folder(ws.config.model))
    compute = build_clip_gradient(model, gradient)
    sizes = {name: parameter.numel() for name, parameter in sorted(selected_parameters(model.transformer, gradient.parameters).items())}
    entry_parts = np.repeat([group_of(name) for name in sizes], list(sizes.values()))
    parts = {"all parameters, exact": slice(None)} | {name: np.flatnonzero(entry_parts == name) for name in PARAMETER_GROUPS}

    def gradients(role: Role, ids: Sequence[str]) -> np.ndarray:
        latents, masks = LatentSet(ws, role), LossMasks(ws, role, gradient)
        return np.stack([compute(*latents.get(each), masks.get(each)).gradient_P for each in ids])

    clip_ids, queries_QD = clip_id_N.astype(str).tolist(), gradients("query", query_ids)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    for start in range(0, len(clip_ids), CLIPS_AT_ONCE):
        clips_ND = gradients("clip", clip_ids[start : start + CLIPS_AT_ONCE])
        for name, part in parts.items():
            query_rows, clip_rows = queries_QD[:, part], clips_ND[:, part]
            columns[name].append(cosines(query_rows, clip_rows, query_rows.shape[1]))
    return [
        Scores(name=name, score_QN=np.concatenate(found, axis=1), query_ids=query_ids, clip_id_N=clip_id_N)
        for name, found in columns.items()
    ]


def group_of(name: str) -> str:
    """The group of a parameter."""
    return next(group for group, pattern in PARAMETER_GROUPS.items() if re.search(pattern, name))


def projected_scores(ws: Workspace, variant: str) -> Iterator[Scores]:
    """The cosine of the variant's published rows, cut to D' = 64, 128, ... entries."""
    stored = load_gradients(ws, variant, "clip", 1).num_entries
    for width in [*prefix_widths(stored), stored]:
        queries, clips = (load_gradients(ws, variant, role, width) for role in ("query", "clip"))
        score_QN = cosines(queries.rows(), clips.rows(), width)
        yield Scores(name=f"D' = {width}", score_QN=score_QN, query_ids=queries.clip_ids, clip_id_N=clips.id_N)


def class_scores(kinds: Mapping[str, str], query_ids: Sequence[str], clip_id_N: Shaped[np.ndarray, " N"]) -> list[Scores]:
    """1 for the clips with the queries' motion (flawed ones, too), and 1 for those of them without a flaw."""
    kind_N = np.array([kinds[each] for each in clip_id_N.astype(str).tolist()])
    found = {"true class": ~np.isin(kind_N, ("akin", "rest")), "true class without flaws": kind_N == "good"}
    rows = {name: np.broadcast_to(score_N.astype(np.float64), (len(query_ids), len(kind_N))) for name, score_N in found.items()}
    return [Scores(name=name, score_QN=row_QN, query_ids=query_ids, clip_id_N=clip_id_N) for name, row_QN in rows.items()]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far scores agree with the yardstick. Rank correlations: mean over the queries, of the mean of the queries, and of that mean with the
    yardstick of the held-out queries. Then the share of the yardstick's best tenth of clips that is in the scores' best tenth, by the vote of the queries
    (both sides), and by the mean (the yardstick's: of the held-out queries).
    """

    by_query: float
    mean: float
    held_out: float
    top_vote: float
    top_mean: float


def correlations(score_QN: np.ndarray, by_query_QN: np.ndarray, held_out_N: np.ndarray) -> Float[np.ndarray, " 3"]:
    """The three rank correlations of :class:`Agreement`."""
    mean_N = score_QN.mean(axis=0)
    by_query = float(np.mean(spearman(score_QN, by_query_QN)))
    return np.array([by_query, float(spearman(mean_N, by_query_QN.mean(axis=0))), float(spearman(mean_N, held_out_N))])


def agreement(score_QN: np.ndarray, by_query_QN: np.ndarray, held_out_N: np.ndarray, *, share: float, percentile: float) -> Agreement:
    """The agreement of scores with a yardstick over the same queries and clips."""
    count = num_selected(len(held_out_N), share)

    def voted(rows_QN: np.ndarray) -> np.ndarray:
        return ranking_order(majority_vote([rows_QN.astype(np.float32)], percentile))[:count]

    def best(row_N: np.ndarray) -> np.ndarray:
        return np.argsort(-row_N, kind="stable")[:count]

    by_query, mean, held_out = correlations(score_QN, by_query_QN, held_out_N)
    return Agreement(
        by_query=by_query,
        mean=mean,
        held_out=held_out,
        top_vote=set_overlap(voted(by_query_QN), voted(score_QN)),
        top_mean=set_overlap(best(held_out_N), best(score_QN.mean(axis=0))),
    )


def resampled(
    scored: Sequence[np.ndarray], by_query_QN: np.ndarray, held_out_N: np.ndarray, num_samples: int
) -> Float[np.ndarray, "B V 3"]:
    """The correlations of all scores under resamples of the clips, the same for all of them."""
    rng, num_clips = np.random.default_rng(0), len(held_out_N)
    found = []
    for _ in range(num_samples):
        clip_n = rng.integers(num_clips, size=num_clips)
        found.append([correlations(score_QN[:, clip_n], by_query_QN[:, clip_n], held_out_N[clip_n]) for score_QN in scored])
    return np.array(found)


def print_table(ws: Workspace, yardstick: Yardstick, sections: Mapping[str, Sequence[Scores]], num_samples: int) -> None:
    """One line for each way to score; differences are to the first one, over the same resamples of clips."""
    by_query_QN, held_out_N = yardstick.by_query_TQN.mean(axis=0), yardstick.held_out_TN.mean(axis=0)
    sides = {"share": ws.config.subset.share, "percentile": ws.config.vote.percentile}
    scored = {
        (section, each.name): np.nan_to_num(each.over(yardstick.query_ids, yardstick.clip_id_N), nan=0.0)
        for section, members in sections.items()
        for each in members
    }
    found = [agreement(score_QN, by_query_QN, held_out_N, **sides) for score_QN in scored.values()]
    sampled_BV3 = resampled(list(scored.values()), by_query_QN, held_out_N, num_samples)
    error_V3 = sampled_BV3.std(axis=0, ddof=1)
    difference_error_V = (sampled_BV3 - sampled_BV3[:, :1]).std(axis=0, ddof=1)[:, 2]
    query_ceiling, held_out_ceiling = ceilings(yardstick)
    print(HEADER)
    last_section = ""
    for (section, name), each, error_3, difference_error in zip(scored, found, error_V3, difference_error_V, strict=True):
        if section != last_section:
            print(f"| **{section}** |" + " |" * 8)
        last_section = section
        cells = [
            name,
            f"{each.by_query:.2f} ± {error_3[0]:.2f}",
            f"{each.by_query / query_ceiling:.2f}",
            f"{each.mean:.2f} ± {error_3[1]:.2f}",
            f"{each.held_out:.2f} ± {error_3[2]:.2f}",
            f"{each.held_out / held_out_ceiling:.2f}",
            f"{each.held_out - found[0].held_out:+.2f} ± {difference_error:.2f}",
            f"{each.top_vote:.2f}",
            f"{each.top_mean:.2f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def ceilings(yardstick: Yardstick) -> tuple[float, float]:
    """The correlation that perfect scores would reach: a query (mean), and the mean of the held-out queries."""
    count = len(yardstick.held_out_TN)
    by_query, held_out = reliability(yardstick.by_query_TQN), reliability(yardstick.held_out_TN[:, None])
    return ceiling(float(by_query.mean()), count), ceiling(float(held_out[0]), count)


def print_reliability(ws: Workspace, yardstick: Yardstick, kinds: Mapping[str, str]) -> None:
    """How far orders agree, and where each kind of clip stands."""
    count = len(yardstick.held_out_TN)
    targets = {
        "a query": yardstick.by_query_TQN,
        "mean of the queries": yardstick.by_query_TQN.mean(axis=1, keepdims=True),
        "mean of the held-out queries": yardstick.held_out_TN[:, None],
    }
    for name, drop_TQN in targets.items():
        single_Q = reliability(drop_TQN)
        spread = f" ({single_Q.min():.2f} to {single_Q.max():.2f})" if len(single_Q) > 1 else ""
        single = float(single_Q.mean())
        print(
            f"{name}: reliability of an order {single:.2f}{spread}, of the mean of {count} {spearman_brown(single, count):.2f}, "
            f"ceiling {ceiling(single, count):.2f}"
        )
    print_halves(ws, yardstick)
    print_kinds(ws, yardstick, kinds)


def print_halves(ws: Workspace, yardstick: Yardstick) -> None:
    """How many of the best tenth of clips half of the orders share with the others, and what both kinds of targets share."""
    count = len(yardstick.held_out_TN)
    halves = [yardstick.of_orders(part) for part in (slice(0, count // 2), slice(count // 2, None))]
    first, second = ((half.by_query_TQN.mean(axis=0), half.held_out_TN.mean(axis=0)) for half in halves)
    sides = {"share": ws.config.subset.share, "percentile": ws.config.vote.percentile}
    voted, best = agreement(first[0], *second, **sides), agreement(first[1][None], second[0][:1], second[1], **sides)
    print(f"half of the orders against the others: top 10 % by vote {voted.top_vote:.2f}, by the held-out mean {best.top_mean:.2f}")
    agree = float(spearman(yardstick.by_query_TQN.mean(axis=(0, 1)), yardstick.held_out_TN.mean(axis=0)))
    print(f"mean of the queries against mean of the held-out queries: {agree:.2f}")


def print_kinds(ws: Workspace, yardstick: Yardstick, kinds: Mapping[str, str]) -> None:
    """Where each kind of clip stands: its mean percentile (1: the best clip), the share that harms, and the share in the best tenth."""
    held_out_N = yardstick.held_out_TN.mean(axis=0)
    percentile_N = held_out_N.argsort().argsort() / (len(held_out_N) - 1)
    kind_N = np.array([kinds[each] for each in yardstick.clip_id_N.astype(str).tolist()])
    best = percentile_N >= np.quantile(percentile_N, 1 - ws.config.subset.share)
    for kind in sorted(set(kinds.values())):
        here = kind_N == kind
        print(
            f"{kind:12} {here.sum():4} clips: mean percentile {percentile_N[here].mean():.2f}, harm {np.mean(held_out_N[here] < 0):.2f}, "
            f"in the best tenth {best[here].mean():.2f}"
        )


def main() -> None:
    """Prepare the project, measure the yardstick, print."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    given = parsed_variants(arguments.variants)
    single = {f"timestep_{timestep}": {"timestep": timestep} for timestep in arguments.timesteps}
    folder = Path(arguments.folder) / f"{arguments.split}-{arguments.seed}-{arguments.clips}"
    ws = prepared(folder, arguments, {"motive": {}, "no_mask": {}, **given, **single})
    kinds, scores = kinds_of(ws), {each.name: each for each in variant_scores(ws)}
    query_ids = scores["motive"].query_ids
    yardstick = measured_yardstick(ws, query_ids, steps=arguments.steps, num_orders=arguments.orders)
    clip_id_N = yardstick.clip_id_N
    print_reliability(ws, yardstick, kinds)
    detailed = arguments.detailed
    sections = {
        "variants": [scores[name] for name in ("motive", *(name for name in scores if name not in {"motive", *single}))],
        "controls": [*control_scores(ws, query_ids), *class_scores(kinds, query_ids, clip_id_N)],
        "one timestep": [scores[name] for name in single],
        f"parameters, {detailed}": exact_scores(ws, detailed, query_ids, clip_id_N),
        f"projection, {detailed}": list(projected_scores(ws, detailed)),
    }
    print_table(ws, yardstick, sections, arguments.samples)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="spoiled", choices=["plain", "confound", "spoiled"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=320)
    parser.add_argument("--orders", type=int, default=6, help="fine-tunes, each with an order of its own; at least 2")
    parser.add_argument("--steps", type=int, default=40, help="steps of each fine-tune")
    parser.add_argument("--samples", type=int, default=300, help="resamples of the clips for the standard errors")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--variants", nargs="+", default=["motive_plus"], help="beside motive and no_mask: names, or name={draws: 4}")
    parser.add_argument("--timesteps", nargs="*", type=int, default=list(TIMESTEPS), help="single timesteps, one draw each")
    parser.add_argument(
        "--detailed", default="motive", help="the variant whose parameters and widths are taken apart (without a preconditioner)"
    )
    parser.add_argument(
        "--folder", default="benchmarks/out/pool_truth", help="where the projects are kept (default: that of benchmarks.pool_truth)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
