"""The checks that need gradients of their own: timesteps, noises, number of draws, precision. At most 40 gradient passes, whatever the project's size.

A handful of queries and clips, chosen by a hash of their ids, pass once for each of a few single draws, and once in the other precision. Two sets of
gradients agree as far as they rank the pairs of these items alike by cosine. So few items give a rough figure; its standard error (jackknife over
the items) stands beside it.

Axis suffixes: N items (queries and clips), P projected entries, K draws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float

from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.loss import attribution_draws
from motive_pipeline.attribution.loss_masks import LossMasks
from motive_pipeline.attribution.preconditioner import adam_scales
from motive_pipeline.attribution.second_moments import load_second_moments, second_moments_content
from motive_pipeline.attribution.stage import load_gradients
from motive_pipeline.config import Variant
from motive_pipeline.config.timesteps import TimestepRange
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.evaluation.audit.agreement import hashed_sample, left_out_error, pairs_of, spearman
from motive_pipeline.evaluation.audit.lds import spearman_brown
from motive_pipeline.evaluation.audit.table import AuditRow
from motive_pipeline.graph import Role
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.folder import timestep_range
from motive_pipeline.models.load import load_attributed_model, model_folder, model_hash
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.rows import RowRef
from motive_pipeline.storage.workspace import Workspace

STORE = "audit_rows"
DIMS: dict[str, tuple[str, ...]] = {"gradient": ("proj",), "loss": ("query", "draw")}
"""The store of the audit's rows: single draws here, trainings in retraining.py."""

MAX_PASSES = 40
NUM_EVEN_TIMESTEPS = 4
"""The middles of four equal parts of the timesteps."""

MIN_ITEMS = 4
"""With fewer items (six pairs) nothing is said."""

MAX_QUERIES = 2
VERSION = 1
"""Raise it when a row of the audit's gradients changes."""

PREDICTED_DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class Item:
    """A clip or query of the sample."""

    role: Role
    clip_id: str


@dataclass(frozen=True, kw_only=True)
class OneDraw:
    """One timestep, one noise, in one precision."""

    timestep: float
    noise_seed: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The gradients of the sample by draw, each [item, proj], only items that have all of them; and what a pass took."""

    gradient_NP: Mapping[OneDraw, Float[np.ndarray, "N P"]]
    seconds_a_pass: float

    @property
    def num_items(self) -> int:
        """How many items have a gradient for every draw."""
        return min((len(rows) for rows in self.gradient_NP.values()), default=0)


def even_timesteps(within: TimestepRange) -> list[float]:
    """The middles of equal parts of the range."""
    width = (within.high - within.low) / NUM_EVEN_TIMESTEPS
    return [within.low + width * (number + 0.5) for number in range(NUM_EVEN_TIMESTEPS)]


def draws_of_audit(ws: Workspace, variant: Variant) -> list[OneDraw]:
    """The draws: the variant's own first, evenly spaced timesteps with its noise, another noise at its timestep, and its draw in the other precision."""
    config = ws.config.of_variant(variant)
    within, dtype = timestep_range(config.attributed_model), ws.config.model.dtype
    own = attribution_draws(config.gradient, within)
    main, seed = float(own[0].timestep), own[0].noise_seed
    other = "float32" if dtype == "bfloat16" else "bfloat16"
    timesteps = [main, *(each for each in even_timesteps(within) if each != main)]
    draws = [OneDraw(timestep=timestep, noise_seed=seed, dtype=dtype) for timestep in timesteps]
    another = OneDraw(timestep=main, noise_seed=max(draw.noise_seed for draw in own) + 1, dtype=dtype)
    return [*draws, another, OneDraw(timestep=main, noise_seed=seed, dtype=other)]


def sampled_items(ws: Workspace, variant: str, num_passes: int) -> list[Item]:
    """As many items as :data:`MAX_PASSES` allow for ``num_passes`` each: up to two queries, the rest clips, all with a gradient that is not zero."""
    most = MAX_PASSES // num_passes
    found: list[Item] = []
    wanted: tuple[tuple[Role, int], ...] = (("query", MAX_QUERIES), ("clip", most))
    for role, count in wanted:
        gradients = load_gradients(ws, variant, role, 1)
        ids = gradients.id_N[gradients.norms_N > 0]
        chosen = ids[hashed_sample(ids, min(count, most - len(found)), "audit passes")].astype(str).tolist()
        found += [Item(role=role, clip_id=clip_id) for clip_id in chosen]
    return found


def pass_rows(ws: Workspace, variant: Variant) -> list[AuditRow]:
    """The rows of all checks of this module.

    Raises:
        NotPublished: latents, masks or gradients are not published.
    """
    draws = draws_of_audit(ws, variant)
    items = sampled_items(ws, variant, len(draws))
    if len(items) < MIN_ITEMS:
        said = f"{len(items)} clips and queries have a gradient; {MIN_ITEMS} are needed"
        checks = ("timestep", "noise", "draws", "precision")
        return [AuditRow(check=check, variant=variant, num_units=len(items), unit="items", verdict=said) for check in checks]
    model_draws, other_precision = draws[:-1], draws[-1]
    passes = computed_passes(ws, variant, items, model_draws)
    rows = [
        *timestep_rows(variant, passes, model_draws),
        *noise_rows(variant, passes, model_draws),
        *number_rows(variant, passes, model_draws),
    ]
    try:
        precise = computed_passes(ws, variant, items, [draws[0], other_precision])
    except (torch.OutOfMemoryError, MemoryError):
        said = f"the model in {other_precision.dtype} does not fit in memory beside itself"
        return [*rows, AuditRow(check="precision", variant=variant, parameter=other_precision.dtype, verdict=said)]
    return [*rows, *precision_rows(variant, precise, draws[0], other_precision)]


def timestep_rows(variant: str, passes: Passes, draws: Sequence[OneDraw]) -> Iterator[AuditRow]:
    """Each single timestep against the mean gradient over all timesteps of the sample (the paper: ten), all with one noise."""
    own = [draw for draw in draws if draw.noise_seed == draws[0].noise_seed]
    mean_NP = np.mean([passes.gradient_NP[draw] for draw in own], axis=0)
    row = AuditRow(check="timestep", variant=variant, against=f"mean of {len(own)}")
    for draw in own:
        yield agreement_row(replace(row, parameter=f"{draw.timestep:g}"), passes.gradient_NP[draw], mean_NP)


def noise_rows(variant: str, passes: Passes, draws: Sequence[OneDraw]) -> Iterator[AuditRow]:
    """The variant's draw against one with another noise at the same timestep."""
    other = next(draw for draw in draws if draw.noise_seed != draws[0].noise_seed)
    pair = passes.gradient_NP[draws[0]], passes.gradient_NP[other]
    row = AuditRow(check="noise", variant=variant, against=f"noise {other.noise_seed}", parameter=f"noise {draws[0].noise_seed}")
    yield agreement_row(row, *pair)


def number_rows(variant: str, passes: Passes, draws: Sequence[OneDraw]) -> Iterator[AuditRow]:
    """The means of k draws against those of k other draws, averaged over all ways to deal them, for k = 1, 2, ...; and what k = 16 would reach.

    ``seconds`` is what k draws of one clip take.
    """
    single = math.nan
    for count in range(1, len(draws) // 2 + 1):
        found = [
            float(spearman(*(pairs_of(np.mean([passes.gradient_NP[draws[each]] for each in part], axis=0)) for part in (first, second))))
            for first, second in disjoint_parts(len(draws), count)
        ]
        value = float(np.nanmean(found)) if not np.isnan(found).all() else math.nan
        single = value if count == 1 else single
        yield AuditRow(
            check="draws",
            variant=variant,
            parameter=str(count),
            value=value,
            num_units=len(found),
            unit="splits",
            seconds=count * passes.seconds_a_pass,
        )
    yield AuditRow(
        check="draws",
        variant=variant,
        against="Spearman-Brown",
        parameter=str(PREDICTED_DRAWS),
        value=math.nan if math.isnan(single) else spearman_brown(single, PREDICTED_DRAWS),
        num_units=len(disjoint_parts(len(draws), 1)),
        unit="splits",
        seconds=PREDICTED_DRAWS * passes.seconds_a_pass,
        verdict="predicted from one draw",
    )


def precision_rows(variant: str, passes: Passes, own: OneDraw, other: OneDraw) -> Iterator[AuditRow]:
    """The same draw in bfloat16 and float32: cosine of the two gradients of an item, and whether they rank the pairs alike."""
    first_NP, second_NP = passes.gradient_NP[own], passes.gradient_NP[other]
    row = AuditRow(check="precision", variant=variant, against=other.dtype)
    if len(first_NP) < MIN_ITEMS:
        yield replace(row, num_units=len(first_NP), unit="items", verdict=f"too few gradients are finite in {other.dtype}")
        return
    lengths = np.linalg.norm(first_NP, axis=1) * np.linalg.norm(second_NP, axis=1)
    cosine_N = np.divide((first_NP * second_NP).sum(axis=1), lengths, out=np.zeros(len(lengths)), where=lengths > 0)
    error = float(cosine_N.std(ddof=1) / math.sqrt(len(cosine_N)))
    parameter = f"cosine of {own.dtype}"
    yield replace(row, parameter=parameter, value=float(cosine_N.mean()), std_error=error, num_units=len(cosine_N), unit="items")
    yield agreement_row(replace(row, parameter=f"spearman of {own.dtype}"), first_NP, second_NP)


def agreement_row(row: AuditRow, first_NP: Float[np.ndarray, "N P"], second_NP: Float[np.ndarray, "N P"]) -> AuditRow:
    """The rank correlation of the cosines of all pairs of items, with its jackknife error over the items."""
    if len(first_NP) < MIN_ITEMS:
        return replace(row, num_units=len(first_NP), unit="items", verdict="too few items have all gradients")
    value = float(spearman(pairs_of(first_NP), pairs_of(second_NP)))
    said = "all pairs are equally similar" if math.isnan(value) else ""
    return replace(row, value=value, std_error=left_out_error([first_NP, second_NP]), num_units=len(first_NP), unit="items", verdict=said)


def disjoint_parts(num_draws: int, count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to take two disjoint sets of ``count`` of ``num_draws`` draws, each pair of sets once."""
    return [
        (first, second)
        for first in combinations(range(num_draws), count)
        for second in combinations([each for each in range(num_draws) if each not in first], count)
        if first < second
    ]


def computed_passes(ws: Workspace, variant: Variant, items: Sequence[Item], draws: Sequence[OneDraw]) -> Passes:
    """The gradients of ``items`` by the variant under each draw, from the row store or computed now; items that were rejected for a draw are left out of all."""
    config = ws.config.of_variant(variant)
    latents: dict[Role, LatentSet] = {role: LatentSet(ws, role) for role in ("clip", "query")}
    masks: dict[Role, LossMasks] = {role: LossMasks(ws, role, config.gradient) for role in latents}
    store = ws.store(STORE, DIMS)
    base = [VERSION, model_hash(ws), ws.config.row_fingerprint("gradient", variant)]
    if config.influence.uses_adam:
        base.append(second_moments_content(ws))
    found: dict[OneDraw, dict[str, np.ndarray]] = {}
    seconds: list[float] = []
    for draw in draws:
        keys = {
            digest("pass", base, vars(draw), latents[item.role].content(item.clip_id), masks[item.role].content(item.clip_id)): item
            for item in items
        }
        row = _row_function(ws, variant, draw, latents, masks)
        outcome = compute_rows(
            store, [Work(key=key, item=item) for key, item in keys.items()], row, what=f"audit, timestep {draw.timestep:g}"
        )
        refs = [(keys[key].clip_id, ref) for key, ref in outcome.refs.items() if isinstance(ref, RowRef)]
        found[draw] = {clip_id: store.read(ref, "gradient") * float(store.read(ref, "norm")) for clip_id, ref in refs}
        seconds += [float(store.read(ref, "seconds")) for _, ref in refs]
    whole = [item.clip_id for item in items if all(item.clip_id in rows for rows in found.values())]
    width = max((len(rows[clip_id]) for rows in found.values() for clip_id in rows), default=0)
    gradients = {
        draw: np.array([rows[clip_id] for clip_id in whole], np.float64).reshape(len(whole), width) for draw, rows in found.items()
    }
    return Passes(gradient_NP=gradients, seconds_a_pass=float(np.median(seconds)) if seconds else math.nan)


def _row_function(
    ws: Workspace, variant: Variant, draw: OneDraw, latents: Mapping[Role, LatentSet], masks: Mapping[Role, LossMasks]
) -> Callable[[Item], dict[str, np.ndarray]]:
    """``item -> arrays``; the model is loaded with the first missing row."""
    built: list[ClipGradient] = []

    def row(item: Item) -> dict[str, np.ndarray]:
        if not built:
            built.append(_single_draw_gradient(ws, variant, draw))
        started = time.monotonic()
        feature = built[0](*latents[item.role].get(item.clip_id), masks[item.role].get(item.clip_id))
        taken = np.array(time.monotonic() - started)
        return {"gradient": feature.gradient_P, "norm": np.array(feature.norm), "seconds": taken}

    return row


def _single_draw_gradient(ws: Workspace, variant: Variant, draw: OneDraw) -> ClipGradient:
    """The gradient pass of the variant, with this draw alone."""
    only = {"timestep": draw.timestep, "noise_seed": draw.noise_seed, "num_noises": 1, "draws": None, "combine": "mean_gradient"}
    config = ws.config.of_variant(variant)
    section = config.gradient.model_copy(update=only)
    is_own = draw.dtype == ws.config.model.dtype
    model = load_attributed_model(config, dtype=draw.dtype, path=None if is_own else model_folder(ws.config.model))
    if not config.influence.uses_adam:
        return build_clip_gradient(model, section)
    return build_clip_gradient(model, section, scales=adam_scales(load_second_moments(ws, model.device), eps=config.influence.adam_eps))
