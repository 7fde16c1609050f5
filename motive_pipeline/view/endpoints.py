"""The explorer's addresses, and those of them that answer with JSON. All but one only read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, get_args

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from motive_pipeline.curation.edits import Edits, Tick, edits_stamp
from motive_pipeline.errors import MotiveError
from motive_pipeline.view import file_endpoints
from motive_pipeline.view.answering import (
    Answer,
    answering,
    error_answer,
    json_answer,
    parsed,
    snapshot_of,
    view_of,
    whole_number,
    with_body,
)
from motive_pipeline.view.choice import compared
from motive_pipeline.view.clip_view import BadRequest, Wanted
from motive_pipeline.view.snapshot import Snapshot, scores_version
from motive_pipeline.view.viewer import Viewer

MAX_ROWS = 500
"""Clips in one page of rows."""


def routes(viewer: Viewer) -> list[Route]:
    """Every address of the explorer."""
    reading: dict[str, Answer] = {
        "/": file_endpoints.index_page,
        "/app/{name}": file_endpoints.static_file,
        "/api/meta": _meta,
        "/api/version": _version,
        "/api/clips": _clips,
        "/api/clips/{clip_id}": _clip,
        "/api/rejects": _rejects,
        "/api/choice": _choice,
        "/api/map": _map,
        "/api/edits": _edits,
        "/tiles/{clip_id}/{kind}": file_endpoints.tile,
        "/videos/{clip_id}/{kind}": file_endpoints.video,
        "/download/{name}": file_endpoints.download,
        "/explain/{clip_id}": file_endpoints.explanation,
        "/asked/{name}": file_endpoints.asked_page,
        "/report/{name:path}": file_endpoints.report,
        "/preference/{name:path}": file_endpoints.preference,
    }
    return [
        *(Route(path, answering(viewer, answer), methods=["GET"]) for path, answer in reading.items()),
        Route("/api/selection", with_body(viewer, _select), methods=["POST"]),
        Route("/api/edits", with_body(viewer, _save), methods=["POST"]),
        Route("/api/ask", _asking(viewer), methods=["POST"]),
    ]


def _asking(viewer: Viewer) -> Callable[[Request], Awaitable[Response]]:
    """Takes the content of a video; its name and, if it was given, its caption are in the address."""

    async def endpoint(request: Request) -> Response:
        given = request.query_params
        try:
            page = await viewer.asker.ask(given.get("name", ""), given.get("caption") or None, request.stream())
        except MotiveError as error:
            return error_answer(error)
        return json_answer({"page": f"/asked/{page}"})

    return endpoint


def _version(viewer: Viewer, request: Request) -> Response:
    viewer.follow()
    return json_answer({"version": scores_version(viewer.ws), "edits": edits_stamp(viewer.edits_file)})


def _meta(viewer: Viewer, request: Request) -> Response:
    """All that the page needs once."""
    viewer.follow()
    seen = viewer.current()
    config = viewer.ws.config
    ranked = viewer.ws.recorded(f"voted_ranking/{seen.lead}")
    share = config.subset.share if ranked is None else ranked.provenance["settings"].get("subset.share", config.subset.share)
    queries = seen.rows(
        "SELECT query_id AS id, regexp_extract(path, '[^/]*$') AS name, left(caption, 400) AS caption, category, role FROM queries"
    )
    asking = set(seen.ballots[seen.lead].query_ids) if seen.lead in seen.ballots else set()

    def values(sql: str) -> list[str]:
        return [row["value"] for row in seen.rows(sql)]

    return json_answer(
        viewer.about()
        | {
            "version": seen.version,
            "num_clips": len(seen.clip_id_N),
            "num_rejects": seen.rows("SELECT count(*) AS value FROM rejects")[0]["value"],
            "num_harmful": seen.rows("SELECT count(harmful) AS value FROM clips")[0]["value"],
            "columns": [{"key": column.key, "label": column.label, "kind": column.kind} for column in seen.columns],
            "queries": [query | {"votes": query["id"] in asking} for query in queries],
            "categories": values("SELECT DISTINCT category AS value FROM clips WHERE category != '' ORDER BY value"),
            "sources": values("SELECT DISTINCT source AS value FROM clips WHERE source != '' ORDER BY value"),
            "flags": values("SELECT DISTINCT unnest(flags) AS value FROM clips ORDER BY value"),
            "arms": [{"name": arm, "num": int(seen.in_arm(arm).sum())} for arm in seen.arms],
            "lead": seen.lead,
            "lead_arm": config.lead_arm,
            "selecting": {arm: config.arm(arm).selection.in_words() for arm in config.arms if config.arm(arm).selection},
            "variants": [
                {"name": name, "percentile": ballot.percentile, "queries": len(ballot.query_ids)} for name, ballot in seen.ballots.items()
            ],
            "share": share,
            "spaces": viewer.layouts.spaces(),
            "has_plotly": file_endpoints.plotly_file() is not None,
            "pages": viewer.published_pages(),
            "notes": viewer.notes(seen),
        }
    )


def _clips(viewer: Viewer, request: Request) -> Response:
    seen, view = snapshot_of(viewer, request), view_of(request)
    numbers = seen.order(view, viewer.edits() if view.tick else Edits(file=viewer.edits_file))  # a damaged file of ticks hides no clip
    start, count = whole_number(request, "offset", 0, len(numbers)), whole_number(request, "limit", 100, MAX_ROWS)
    columns = [key for key in request.query_params.getlist("column") if key]
    rows = seen.page(numbers[start : start + count], columns, view.variant)
    return json_answer({"total": len(numbers), "offset": start, "rows": rows})


def _clip(viewer: Viewer, request: Request) -> Response:
    """Everything about one clip."""
    seen, clip_id = snapshot_of(viewer, request), request.path_params["clip_id"]
    number = seen.position(clip_id)
    if number is None:
        raise BadRequest(f"there is no clip {clip_id!r}")
    about = seen.rows("SELECT path, caption, source, flags, arms, harmful, category FROM clips WHERE n = ?", [number])[0]
    row = seen.page(np.array([number]), [column.key for column in seen.columns if column.kind == "number"], "")[0]
    queries = {
        each["query_id"]: each for each in seen.rows("SELECT query_id, category, regexp_extract(path, '[^/]*$') AS name FROM queries")
    }
    influence = [
        {
            "query": query_id,
            "name": queries.get(query_id, {}).get("name", ""),
            "category": queries.get(query_id, {}).get("category", ""),
            "influence": value,
        }
        for query_id, value in seen.influence_on(request.query_params.get("variant") or seen.lead, clip_id).items()
    ]
    problems = seen.rows("SELECT stage, reason, detail FROM rejects WHERE clip_id = ?", [clip_id])
    subject = viewer.subject(clip_id)
    return json_answer(
        about
        | {
            "id": clip_id,
            "n": number,
            "name": row["name"],
            "values": row["values"],
            "influence": sorted(influence, key=lambda each: -each["influence"]),
            "rejects": problems,
            "has_original": viewer.pictures.original(subject) is not None,
        }
    )


def _rejects(viewer: Viewer, request: Request) -> Response:
    seen = snapshot_of(viewer, request)
    words = request.query_params.get("text", "").lower().split()
    reason = request.query_params.get("reason", "")
    start, count = whole_number(request, "offset", 0, 10**9), whole_number(request, "limit", 100, MAX_ROWS)
    total, rows = seen.rejects(words, reason, start=start, count=count)
    reasons = seen.rows("SELECT reason, count(*) AS num FROM rejects GROUP BY reason ORDER BY num DESC, reason")
    return json_answer({"total": total, "offset": start, "rows": rows, "reasons": reasons})


def _choice(viewer: Viewer, request: Request) -> Response:
    """What the slider's settings would choose, beside every arm."""
    seen = snapshot_of(viewer, request)
    wanted = Wanted.parse(parsed(request.query_params.get("choice", "{}"), "choice"))
    found, chosen_N = seen.choice(wanted)
    beside = compared(chosen_N, {arm: seen.in_arm(arm) for arm in seen.arms})
    return json_answer(
        {
            "num_chosen": len(found.clip_id_K),
            "num_pool": seen.ballots[wanted.variant].num_pool,
            "last_votes": found.last_votes,
            "arms": [
                {"arm": each.arm, "num": each.num_clips, "both": each.both, "came": int(each.came_N.sum()), "went": int(each.went_N.sum())}
                for each in beside
            ],
        }
    )


def _map(viewer: Viewer, request: Request) -> Response:
    """Places of the clips, by their numbers, coloured by one column. A page that asks whether there is a better layout than ``known`` gets it when there is."""
    seen = snapshot_of(viewer, request)
    space = request.query_params.get("space", "gradients")
    if space not in ("gradients", "embeddings"):
        raise BadRequest(f"space: {space!r} is neither gradients nor embeddings")
    known = request.query_params.get("known", "")
    layout = viewer.layouts.layout(space, improve=bool(known))
    if layout.method == known and not layout.is_final:
        return json_answer({"method": known, "is_final": False})
    place_N = np.minimum(np.searchsorted(seen.clip_id_N, layout.clip_id_N), len(seen.clip_id_N) - 1)
    is_in_view_N = _in_view(viewer, seen, request)
    known_N = (seen.clip_id_N[place_N] == layout.clip_id_N) & is_in_view_N[place_N]
    numbers = place_N[known_N]
    key = request.query_params.get("colour", "")
    colour = seen.column(numbers, key, request.query_params.get("variant", "")) if key else None
    return json_answer(
        {
            "n": numbers.tolist(),
            "x": np.round(layout.place_N2[known_N, 0].astype(float), 5).tolist(),
            "y": np.round(layout.place_N2[known_N, 1].astype(float), 5).tolist(),
            "colour": None if colour is None else colour,
            "method": layout.method,
            "is_final": layout.is_final,
        }
    )


def _in_view(viewer: Viewer, seen: Snapshot, request: Request) -> np.ndarray:
    """Which of the clips [N] pass the filters of the view."""
    view = view_of(request)
    is_in_N = np.zeros(len(seen.clip_id_N), dtype=bool)
    is_in_N[seen.order(view, viewer.edits() if view.tick else Edits(file=viewer.edits_file))] = True
    return is_in_N


def _edits(viewer: Viewer, request: Request) -> Response:
    return _edits_json(viewer.edits().ticks)


def _edits_json(ticks: dict[str, tuple[Tick, str]]) -> Response:
    return json_answer({"ticks": {clip_id: {"tick": tick, "note": note} for clip_id, (tick, note) in ticks.items()}})


def _save(viewer: Viewer, body: Any) -> Response:
    """A tick, a note or both. What the page does not send stays as the file has it: another page, or another viewer, may have changed it."""
    if not isinstance(body, dict) or not isinstance(body.get("id"), str) or not {"tick", "note"} & body.keys():
        raise BadRequest("an edit is {id, tick: keep, drop or empty, note}; tick or note may be left out")
    if body.get("tick", "") not in get_args(Tick) or not isinstance(body.get("note", ""), str):
        raise BadRequest("an edit is {id, tick: keep, drop or empty, note}; tick or note may be left out")
    saved = viewer.save_tick(body["id"], body.get("tick"), body.get("note"))
    return json_answer({"tick": saved.tick(body["id"]), "note": saved.note(body["id"]), "file": str(saved.file)})


def _select(viewer: Viewer, body: Any) -> Response:
    numbers = body.get("n") if isinstance(body, dict) else None
    if not isinstance(numbers, list) or not all(isinstance(each, int) and not isinstance(each, bool) for each in numbers):
        raise BadRequest("a selection is {v, n: [whole numbers]}")
    return json_answer({"selection": viewer.snapshot(str(body.get("v", ""))).select(numbers), "total": len(set(numbers))})
