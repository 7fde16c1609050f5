"""The page of ``motive ask``: the video beside the clips that drive its motion and those that work against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.ground_truth import load_truth
from motive_pipeline.models.load import latent_grid
from motive_pipeline.report.ask import Answer, ClipPlace
from motive_pipeline.report.explain_page import influence_in_words
from motive_pipeline.report.gallery import Card, Gallery
from motive_pipeline.report.pictures import animation
from motive_pipeline.report.stage import render_template
from motive_pipeline.report.tables import format_number
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace


def write_answer(ws: Workspace, found: Answer, *, file: Path | None = None) -> Path:
    """Write the page; returns its file: ``file``, by default ``<root>/ask/<id>-<variant>.html``, or in the working folder if the root cannot be written."""
    name = f"{found.video.clip.clip_id}-{found.variant}.html"
    target = file or (ws.root / "ask" / name if atomic.is_writable(ws.root / "ask") else Path.cwd() / name)
    atomic.write_bytes(target, render_template("ask.html.j2", _context(ws, found)).encode("utf-8"))
    return target


def shown_percentile(place: ClipPlace) -> str:
    """The percentile among the config's queries, as text; a dash without one."""
    return "-" if place.percentile is None else f"{place.percentile:.0f}"


def _context(ws: Workspace, found: Answer) -> dict[str, Any]:
    notes = list(found.notes)
    gallery = Gallery(ws, load_truth(ws), found.variant)
    video = found.video
    return {
        "name": video.clip.file.name,
        "clip_id": video.clip.clip_id,
        "path": video.clip.location,
        "caption": video.caption,
        "caption_from": video.caption_from,
        "variant": found.variant,
        "measure": influence_in_words(ws, found.variant),
        "num_clips": found.num_clips,
        "num_queries": found.influence.num_queries,
        "video": _video_card(ws, found),
        "best": _cards(gallery, found.best, notes),
        "worst": _cards(gallery, found.worst, notes),
        "notes": notes,
    }


def _video_card(ws: Workspace, found: Answer) -> Card:
    decoded, mask_FHW = found.read.decoded, found.read.mask_row["mask"]
    shown = animation(decoded.frames_THWC, float(ws.config.clips.fps), mask_FHW=mask_FHW, temporal_stride=latent_grid(ws).temporal_stride)
    lines = [f"{len(decoded.frames_THWC)} frames", f"mean motion {found.magnitude_px:.2f} px"]
    return Card(animation=shown, caption=found.video.caption, lines=lines)


def _cards(gallery: Gallery, places: Sequence[ClipPlace], notes: list[str]) -> list[Card]:
    """The cards of the clips whose files can still be read; the others are added to ``notes``."""
    cards = []
    for place in places:
        lines = [f"no. {place.place} · {format_number(place.influence, 4, signed=True)}"]
        if place.percentile is not None:
            lines.append(f"above {shown_percentile(place)} % of the queries")
        if standing := gallery.standing(place.clip_id):
            lines.append(standing)
        try:
            cards.append(gallery.clip(place.clip_id, [*lines, *gallery.truth(place.clip_id)]))
        except GateFailed as error:
            notes.append(f"No picture of no. {place.place}: {error}")
    return cards
