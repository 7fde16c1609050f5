"""``motive explain``: one self-contained page about one clip or query, and a short version for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motive_pipeline.config import Variant
from motive_pipeline.errors import RejectRow
from motive_pipeline.evaluation.ground_truth import load_truth
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.graph import Arm, Role
from motive_pipeline.graph.variants import UNMASKED
from motive_pipeline.models.load import latent_grid
from motive_pipeline.motion.field import MaskRule, motion_field
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.motion.trackers import build_tracker
from motive_pipeline.report.chosen import left_out_sentences
from motive_pipeline.report.explain import (
    QuerySummary,
    QueryVote,
    Rejection,
    Standing,
    arms_containing,
    nearest_by_gradient,
    query_summary,
    rejections,
    standing,
)
from motive_pipeline.report.explain_maps import MapSection, map_section, rejected_section
from motive_pipeline.report.frames_sheet import Strip, strips
from motive_pipeline.report.gallery import Card, Gallery
from motive_pipeline.report.lookup import KnownClip, find_clip, load_known_clips
from motive_pipeline.report.plumbing import plumbing_notes
from motive_pipeline.report.stage import render_template
from motive_pipeline.report.tables import Table, arm_name, format_number
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader
from motive_pipeline.visible_text import visible_text

REQUEST_CLIPS = 8

_FACTS = {
    "num_frames": "frames in the file",
    "fps": "frames per second",
    "width": "width, px",
    "height": "height, px",
    "duration_s": "seconds",
    "flags": "flags",
    "category": "category",
    "source": "source",
}


@dataclass(frozen=True, kw_only=True)
class ClipPictures:
    """The clip's pictures and figures about them, or a note why there are none."""

    strips: Sequence[Strip] = ()
    facts: Sequence[tuple[str, str]] = ()
    note: str = ""


def write_explanation(ws: Workspace, name: str, *, file: Path | None = None, compute_maps: bool = True) -> tuple[Path, str]:
    """Write the page about the clip or query that ``name`` names; returns its file and the text for the terminal.

    Influence maps that are not published are computed now, with ``compute_maps``. ``file`` defaults to ``<root>/explain/<id>.html``, or to ``<id>.html`` in the working folder if the root cannot be written.

    Raises:
        MotiveError: ``name`` matches no clip or query, or several.
        NotPublished: there is no ranking yet.
    """
    known = find_clip(load_known_clips(ws), name)
    name = f"{known.clip_id or Path(known.paths[0]).stem}.html"
    target = file or (ws.root / "explain" / name if atomic.is_writable(ws.root / "explain") else Path.cwd() / name)
    context = _context(ws, known, compute_maps)
    atomic.write_bytes(target, render_template("explain.html.j2", context).encode("utf-8"))
    lines = [f"{known.clip_id or 'no id'}  {known.paths[0]}", *context["sentences"]]
    return target, "\n".join(map(visible_text, lines))


def _context(ws: Workspace, known: KnownClip, compute_maps: bool) -> dict[str, Any]:
    row = _catalog_row(ws, known)
    places = _places(ws, known.clip_id) if "clip" in known.roles else {}
    summary = query_summary(ws, known.clip_id, count=REQUEST_CLIPS) if "query" in known.roles else None
    rejected = rejections(ws, known)
    gallery = Gallery(ws, load_truth(ws))
    main, plain = places.get(ws.config.lead_variant), places.get(UNMASKED) if ws.config.lead_variant != UNMASKED else None
    maps = MapSection()
    if main is not None:
        maps = map_section(ws, gallery, main, known.clip_id, compute=compute_maps)
    elif rejected:
        maps = rejected_section(rejected)
    arms = arms_containing(ws, known.clip_id) if places else []
    lead = ws.config.arm(ws.config.lead_arm)
    is_chosen = main is not None and (lead.name in arms if lead.selection else main.is_chosen)
    standing = [] if main is None else _standing_sentences(lead, main, is_chosen=is_chosen)
    left_out = left_out_sentences(ws, known.clip_id) if places else []
    return {
        "name": Path(known.paths[0]).name,
        "clip_id": known.clip_id,
        "paths": known.paths,
        "caption": str(row["caption"]) if row is not None else "",
        "facts": _facts(row) if row is not None else [],
        "sentences": [
            *_sentences(known, standing, plain, summary, rejected, arms, left_out),
            *maps.sentences,
            *plumbing_notes(ws.config),
        ],
        "maps": maps,
        "is_chosen": is_chosen,
        "roles": sorted(known.roles),
        "rejected": rejected,
        "votes": _votes_table(ws, main, plain) if main is not None else None,
        "percentile": f"{ws.config.of_variant(ws.config.lead_variant).vote.percentile:g}",
        "measure": influence_in_words(ws, ws.config.lead_variant),
        "query": _query_cards(gallery, summary) if summary is not None else None,
        "pictures": _clip_pictures(ws, known),
        "nearest": _nearest_cards(ws, gallery, known) if main is not None else [],
        "settings": {key: str(value) for key, value in ws.config.stage_settings("motion_masks").items() if key.startswith("motion.")},
    }


def _places(ws: Workspace, clip_id: str) -> dict[str, Standing | None]:
    """The clip's standing by the lead arm's variant, and by the unmasked one if that has a ranking: `motive rank` makes one alone."""
    lead = ws.config.lead_variant
    others = [variant for variant in ws.config.variants if variant == UNMASKED != lead and ws.has_published(f"voted_ranking/{variant}")]
    return {variant: standing(ws, variant, clip_id) for variant in (lead, *others)}


def _standing_sentences(lead: Arm, main: Standing, *, is_chosen: bool) -> list[str]:
    """Whether the lead arm chose the clip, and its place in the ranking."""
    if not lead.selection:
        return [main.sentence()]
    return [f"{'Chosen' if is_chosen else 'Not chosen'} by {arm_name(lead.name)}. {lead.description}", main.sentence(decides=False)]


def _sentences(
    known: KnownClip,
    standing: Sequence[str],
    plain: Standing | None,
    summary: QuerySummary | None,
    rejected: Sequence[Rejection],
    arms: Sequence[str],
    left_out: Sequence[str],
) -> list[str]:
    """The answer in sentences."""
    found = list(standing)
    if plain is not None:
        found.append(
            f"Without the mask (the variant {plain.variant}): rank {plain.rank}, {plain.votes} votes, {'chosen' if plain.is_chosen else 'not chosen'}."
        )
    if arms:
        found.append(f"Used for training by: {', '.join(arm_name(arm) for arm in arms)}.")
    found += left_out
    if summary is not None:
        found.append(f"A query. {summary.sentence()}")
    if "held_out" in known.roles:
        found.append("A held-out query: only the evaluation uses it. It does not vote.")
    found += [f"Rejected by {each.stage}: {each.reason}: {each.detail}" for each in rejected]
    return found or ["Not in the eligible pool: the clip is in the catalog, but some stage has no row for it yet. Run `motive run`."]


def _catalog_row(ws: Workspace, known: KnownClip) -> pd.Series | None:
    for asset, table, key in (("clip_catalog", "catalog", "clip_id"), ("query_catalog", "queries", "query_id")):
        frame = ws.published(asset).table(table)
        own = frame[frame[key] == known.clip_id]
        if len(own):
            return own.iloc[0]
    return None


def _facts(row: pd.Series) -> list[tuple[str, str]]:
    shown = [(words, row[name]) for name, words in _FACTS.items() if name in row.index and str(row[name])]
    return [(words, f"{value:g}" if isinstance(value, float | np.floating) else str(value)) for words, value in shown]


def influence_in_words(ws: Workspace, variant: Variant) -> str:
    """The definition of influence under the variant's settings."""
    settings = ws.config.of_variant(variant).influence
    divided = ", both scaled by Adam's second moments" if settings.uses_adam else ""
    if settings.uses_trak:
        return f"the inner product, under TRAK's kernel, of the clip's gradient with the query's{divided}"
    product = "cosine" if settings.similarity == "cosine" else "inner product"
    return f"the {product} of the clip's gradient with the query's{divided}"


def _votes_table(ws: Workspace, main: Standing, plain: Standing | None) -> Table:
    """One row for each query, the one with the highest influence first."""
    queries = ws.published("query_catalog").table("queries").set_index("query_id")
    unmasked = {each.query_id: each for each in plain.by_query} if plain is not None else {}
    order = sorted(main.by_query, key=lambda each: -each.influence)
    columns = ["query", "caption", "influence", "threshold", "vote", "place", *(["no mask", "place, no mask"] if plain else [])]
    return Table(
        key="votes",
        title="Influence by query",
        columns=columns,
        rows=[_vote_row(queries, each, unmasked.get(each.query_id)) for each in order],
        caption=f"Place: among the pool's {main.num_clips} clips. A query votes for the clips above its own threshold.",
        strong_rows=frozenset(number for number, each in enumerate(order) if each.votes),
        words=frozenset({1}),
    )


def _vote_row(queries: pd.DataFrame, vote: QueryVote, unmasked: QueryVote | None) -> list[str]:
    row = queries.loc[vote.query_id]
    cells = [
        Path(str(row["path"])).name,
        str(row["caption"]),
        format_number(vote.influence, 4, signed=True),
        format_number(vote.threshold, 4, signed=True),
        "yes" if vote.votes else "no",
        str(vote.place),
    ]
    return cells + ([format_number(unmasked.influence, 4, signed=True), str(unmasked.place)] if unmasked else [])


def _query_cards(gallery: Gallery, summary: QuerySummary) -> dict[str, list[Card]]:
    def cards(clips: Sequence[tuple[str, float]]) -> list[Card]:
        return [
            gallery.clip(clip_id, [format_number(influence, 4, signed=True), gallery.standing(clip_id)]) for clip_id, influence in clips
        ]

    return {"best": cards(summary.best), "worst": cards(summary.worst)}


def _nearest_cards(ws: Workspace, gallery: Gallery, known: KnownClip) -> list[Card]:
    return [
        gallery.clip(clip_id, [f"cosine {format_number(cosine, 3, signed=True)}", gallery.standing(clip_id)])
        for clip_id, cosine in nearest_by_gradient(ws, known.clip_id)
    ]


def _clip_pictures(ws: Workspace, known: KnownClip) -> ClipPictures:
    """Frames and motion magnitude from the file as it is now, and the published mask."""
    try:
        frames_THWC = ClipReader(FrameRule.of(ws.config), ws.config.engine)(_existing_file(known)).frames_THWC
    except RejectRow as rejection:
        return ClipPictures(note=f"No pictures: {rejection.detail}")
    motion, grid = ws.config.motion, latent_grid(ws)
    tracker = build_tracker(motion, device=ws.config.model.device, threads=ws.config.engine.threads)
    field = motion_field(frames_THWC, tracker, MaskRule.of(motion))
    mask_Fhw, note = _mask(_published_mask(ws, known), field.mask(grid))
    per_frame = " per frame" if tracker.reference == "previous" else ""
    facts = [
        (f"mean magnitude, px{per_frame}", f"{field.magnitude_px:.3f}"),
        (f"largest magnitude, px{per_frame}", f"{float(field.magnitude_THW.max()):.2f}"),
        (f"peak, px{per_frame}", f"{field.peak_px:.3f}" + (" (still: below motion.still_px)" if field.peak_px < motion.still_px else "")),
        ("mean weight of the mask", f"{float(mask_Fhw.mean()):.3f}"),
        ("cells with a weight above one half", f"{float((mask_Fhw > 0.5).mean()):.1%}"),
    ]
    if "clip" in known.roles:
        others_px = ws.published("motion_masks").table("index")["motion_magnitude_px"].to_numpy()
        facts.append(("moves more than", f"{float(np.mean(others_px < field.magnitude_px)):.0%} of the clips"))
    return ClipPictures(strips=strips(frames_THWC, field, mask_Fhw, grid.temporal_stride), facts=facts, note=note)


def _mask(published_Fhw: np.ndarray | None, present_Fhw: np.ndarray) -> tuple[np.ndarray, str]:
    """The mask to show and a note: the published mask, unless it is missing or has another shape than the clip has now."""
    if published_Fhw is None:
        shown_Fhw, note = present_Fhw, "No mask is published for this clip. Shown is the mask under the present settings."
    elif published_Fhw.shape != present_Fhw.shape:
        shown_Fhw, note = present_Fhw, "The published mask has another size, so it was made with other settings. Run `motive run`."
    elif not np.allclose(published_Fhw, present_Fhw, atol=1e-6):
        shown_Fhw, note = (
            published_Fhw,
            "The published mask (last row) was made with other settings than the rows above it. Run `motive run`.",
        )
    else:
        shown_Fhw, note = published_Fhw, ""
    return shown_Fhw, note


def _published_mask(ws: Workspace, known: KnownClip) -> np.ndarray | None:
    roles: list[Role] = [*(["clip"] if "clip" in known.roles else []), *(["query"] if known.roles - {"clip"} else [])]
    sets = [MaskSet(ws, role) for role in roles]
    return next((found.get(known.clip_id).numpy() for found in sets if known.clip_id in found), None)


def _existing_file(known: KnownClip) -> MediaFile:
    """The first of its files that exists; if none does, the first, whose reader then reports it missing."""
    files = [MediaFile.parse(path) for path in known.paths]
    return next((file for file in files if file.path.is_file()), files[0])
