"""The explorer's addresses: JSON for the page, pictures and videos, downloads, and the published pages. All but one only read."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import mimetypes
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from motive_pipeline.curation.edits import Edits, Tick, edits_stamp
from motive_pipeline.errors import MotiveError
from motive_pipeline.pages import DESIGN
from motive_pipeline.view.choice import compared
from motive_pipeline.view.clip_view import BadRequest, ClipView, Wanted
from motive_pipeline.view.guard import EXPLORER_POLICY, MAP_POLICY, REPORT_POLICY, STUDY_POLICY
from motive_pipeline.view.pictures import KINDS, VIDEO_KINDS, NoPicture
from motive_pipeline.view.snapshot import INFLUENCE, Snapshot, scores_version
from motive_pipeline.view.viewer import Gone, Viewer

Answer = Callable[[Viewer, Request], Response]

MAX_ROWS = 500
"""Clips in one page of rows."""
MAX_BODY = 2_000_000
_STATIC = files("motive_pipeline.view") / "static"
_KEPT = {"Cache-Control": "private, max-age=3600"}
"""For what is named by its content."""
_STATUS = {NoPicture: 404, Gone: 410, BadRequest: 400}


def routes(viewer: Viewer) -> list[Route]:
    """Every address of the explorer."""
    reading: dict[str, Answer] = {
        "/": _page,
        "/app/{name}": _static,
        "/api/meta": _meta,
        "/api/version": _version,
        "/api/clips": _clips,
        "/api/clips/{clip_id}": _clip,
        "/api/rejects": _rejects,
        "/api/choice": _choice,
        "/api/map": _map,
        "/api/edits": _edits,
        "/tiles/{clip_id}/{kind}": _tile,
        "/videos/{clip_id}/{kind}": _video,
        "/download/{name}": _download,
        "/explain/{clip_id}": _explain,
        "/asked/{name}": _asked,
        "/report/{name:path}": _report,
        "/preference/{name:path}": _preference,
    }
    return [
        *(Route(path, _answering(viewer, answer), methods=["GET"]) for path, answer in reading.items()),
        Route("/api/selection", _with_body(viewer, _select), methods=["POST"]),
        Route("/api/edits", _with_body(viewer, _save), methods=["POST"]),
        Route("/api/ask", _asking(viewer), methods=["POST"]),
    ]


def _answering(viewer: Viewer, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_or_error, lambda: answer(viewer, request))

    return endpoint


def _with_body(viewer: Viewer, answer: Callable[[Viewer, Any], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"more than {MAX_BODY} bytes"}, status_code=413)
        return await run_in_threadpool(_or_error, lambda: answer(viewer, _parsed(body.decode("utf-8", "replace"), "the body")))

    return endpoint


def _asking(viewer: Viewer) -> Callable[[Request], Awaitable[Response]]:
    """Takes the content of a video; its name and, if it was given, its caption are in the address."""

    async def endpoint(request: Request) -> Response:
        given = request.query_params
        try:
            page = await viewer.asker.ask(given.get("name", ""), given.get("caption") or None, request.stream())
        except MotiveError as error:
            return _error(error)
        return _json({"page": f"/asked/{page}"})

    return endpoint


def _or_error(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except MotiveError as error:
        return _error(error)


def _error(error: MotiveError) -> Response:
    return JSONResponse({"error": str(error)}, status_code=_STATUS.get(type(error), 409))


def _json(value: Any) -> Response:
    """``value`` as JSON, in which what is no finite number is null."""
    return Response(json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), default=_plain), media_type="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"{name} is no JSON: {error}") from error


def _seen(viewer: Viewer, request: Request) -> Snapshot:
    return viewer.snapshot(request.query_params.get("v", ""))


def _view_of(request: Request) -> ClipView:
    return ClipView.parse(_parsed(request.query_params.get("view", "{}"), "view"))


def _whole(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal():
        raise BadRequest(f"{name}: {text!r} is not a whole number")
    return min(int(text), most)


def _page(viewer: Viewer, request: Request) -> Response:
    return Response((_STATIC / "index.html").read_bytes(), media_type="text/html; charset=utf-8")


def _static(viewer: Viewer, request: Request) -> Response:
    name = request.path_params["name"]
    if name == "plotly.min.js":
        if (file := plotly_file()) is None:
            raise BadRequest("plotly is not installed")
        return FileResponse(file, media_type="text/javascript", headers=_KEPT)
    if name == DESIGN.name:
        return FileResponse(DESIGN, media_type="text/css", headers={"Cache-Control": "no-cache"})
    if name not in {file.name for file in _STATIC.iterdir()}:
        return JSONResponse({"error": f"there is no {name!r}"}, status_code=404)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {"Cache-Control": "no-cache"}
    if name == "map.html":
        headers |= {"Content-Security-Policy": MAP_POLICY, "X-Frame-Options": "SAMEORIGIN"}
    return Response((_STATIC / name).read_bytes(), media_type=f"{kind}; charset=utf-8", headers=headers)


def plotly_file() -> Path | None:
    """Plotly's script in the installed wheel; None where it is not installed."""
    found = importlib.util.find_spec("plotly")
    file = Path(found.origin).parent / "package_data" / "plotly.min.js" if found is not None and found.origin else None
    return file if file is not None and file.is_file() else None


def _version(viewer: Viewer, request: Request) -> Response:
    viewer.follow()
    return _json({"version": scores_version(viewer.ws), "edits": edits_stamp(viewer.edits_file)})


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

    return _json(
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
            "has_plotly": plotly_file() is not None,
            "pages": viewer.published_pages(),
            "notes": viewer.notes(seen),
        }
    )


def _clips(viewer: Viewer, request: Request) -> Response:
    seen, view = _seen(viewer, request), _view_of(request)
    numbers = seen.order(view, viewer.edits() if view.tick else Edits(file=viewer.edits_file))  # a damaged file of ticks hides no clip
    start, count = _whole(request, "offset", 0, len(numbers)), _whole(request, "limit", 100, MAX_ROWS)
    columns = [key for key in request.query_params.getlist("column") if key]
    rows = seen.page(numbers[start : start + count], columns, view.variant)
    return _json({"total": len(numbers), "offset": start, "rows": rows})


def _clip(viewer: Viewer, request: Request) -> Response:
    """Everything about one clip."""
    seen, clip_id = _seen(viewer, request), request.path_params["clip_id"]
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
    return _json(
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
    seen = _seen(viewer, request)
    words = request.query_params.get("text", "").lower().split()
    reason = request.query_params.get("reason", "")
    start, count = _whole(request, "offset", 0, 10**9), _whole(request, "limit", 100, MAX_ROWS)
    total, rows = seen.rejects(words, reason, start=start, count=count)
    reasons = seen.rows("SELECT reason, count(*) AS num FROM rejects GROUP BY reason ORDER BY num DESC, reason")
    return _json({"total": total, "offset": start, "rows": rows, "reasons": reasons})


def _choice(viewer: Viewer, request: Request) -> Response:
    """What the slider's settings would choose, beside every arm."""
    seen = _seen(viewer, request)
    wanted = Wanted.parse(_parsed(request.query_params.get("choice", "{}"), "choice"))
    found, chosen_N = seen.choice(wanted)
    beside = compared(chosen_N, {arm: seen.in_arm(arm) for arm in seen.arms})
    return _json(
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
    seen = _seen(viewer, request)
    space = request.query_params.get("space", "gradients")
    if space not in ("gradients", "embeddings"):
        raise BadRequest(f"space: {space!r} is neither gradients nor embeddings")
    known = request.query_params.get("known", "")
    layout = viewer.layouts.layout(space, improve=bool(known))
    if layout.method == known and not layout.is_final:
        return _json({"method": known, "is_final": False})
    place_N = np.minimum(np.searchsorted(seen.clip_id_N, layout.clip_id_N), len(seen.clip_id_N) - 1)
    is_in_view_N = _in_view(viewer, seen, request)
    known_N = (seen.clip_id_N[place_N] == layout.clip_id_N) & is_in_view_N[place_N]
    numbers = place_N[known_N]
    key = request.query_params.get("colour", "")
    colour = seen.column(numbers, key, request.query_params.get("variant", "")) if key else None
    return _json(
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
    view = _view_of(request)
    is_in_N = np.zeros(len(seen.clip_id_N), dtype=bool)
    is_in_N[seen.order(view, viewer.edits() if view.tick else Edits(file=viewer.edits_file))] = True
    return is_in_N


def _edits(viewer: Viewer, request: Request) -> Response:
    return _edits_json(viewer.edits().ticks)


def _edits_json(ticks: dict[str, tuple[Tick, str]]) -> Response:
    return _json({"ticks": {clip_id: {"tick": tick, "note": note} for clip_id, (tick, note) in ticks.items()}})


def _save(viewer: Viewer, body: Any) -> Response:
    """A tick, a note or both. What the page does not send stays as the file has it: another page, or another viewer, may have changed it."""
    if not isinstance(body, dict) or not isinstance(body.get("id"), str) or not {"tick", "note"} & body.keys():
        raise BadRequest("an edit is {id, tick: keep, drop or empty, note}; tick or note may be left out")
    if body.get("tick", "") not in get_args(Tick) or not isinstance(body.get("note", ""), str):
        raise BadRequest("an edit is {id, tick: keep, drop or empty, note}; tick or note may be left out")
    saved = viewer.save_tick(body["id"], body.get("tick"), body.get("note"))
    return _json({"tick": saved.tick(body["id"]), "note": saved.note(body["id"]), "file": str(saved.file)})


def _select(viewer: Viewer, body: Any) -> Response:
    numbers = body.get("n") if isinstance(body, dict) else None
    if not isinstance(numbers, list) or not all(isinstance(each, int) and not isinstance(each, bool) for each in numbers):
        raise BadRequest("a selection is {v, n: [whole numbers]}")
    return _json({"selection": viewer.snapshot(str(body.get("v", ""))).select(numbers), "total": len(set(numbers))})


def _tile(viewer: Viewer, request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind not in KINDS:
        raise BadRequest(f"a picture is one of {', '.join(KINDS)}, not {kind!r}")
    return FileResponse(viewer.pictures.tile(viewer.subject(request.path_params["clip_id"]), kind), media_type="image/webp", headers=_KEPT)


def _video(viewer: Viewer, request: Request) -> Response:
    kind, subject = request.path_params["kind"], viewer.subject(request.path_params["clip_id"])
    if kind == "original":
        if (found := viewer.pictures.original(subject)) is not None:
            return FileResponse(found[0], media_type=found[1])
        kind = "scored"
    if kind not in VIDEO_KINDS:
        raise BadRequest(f"a video is original or one of {', '.join(VIDEO_KINDS)}, not {kind!r}")
    return FileResponse(viewer.pictures.scored(subject, kind), media_type="video/mp4", headers=_KEPT)


def _download(viewer: Viewer, request: Request) -> Response:
    """The present view as a file."""
    seen, view, edits = _seen(viewer, request), _view_of(request), viewer.edits()
    keys = [
        key
        for key in (view.sort, *(key for key, _, _ in view.ranges), *request.query_params.getlist("column"))
        if key.startswith(INFLUENCE)
    ]
    table = seen.table(seen.order(view, edits), keys, view.variant, edits)
    stream = io.BytesIO()
    match request.path_params["name"]:
        case "clips.csv":
            for name in ("flags", "arms"):
                place = table.column_names.index(name)
                table = table.set_column(
                    place, name, pyarrow.array([" ".join(each or []) for each in table[name].to_pylist()], pyarrow.string())
                )
            pyarrow.csv.write_csv(table, stream)
            kind = "text/csv; charset=utf-8"
        case "clips.parquet":
            pq.write_table(table, stream)
            kind = "application/vnd.apache.parquet"
        case name:
            raise BadRequest(f"a download is clips.csv or clips.parquet, not {name!r}")
    disposition = f'attachment; filename="{request.path_params["name"]}"'
    return Response(stream.getvalue(), media_type=kind, headers={"Content-Disposition": disposition})


def _explain(viewer: Viewer, request: Request) -> Response:
    file = viewer.explanation(request.path_params["clip_id"])
    return FileResponse(file, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": REPORT_POLICY})


def _asked(viewer: Viewer, request: Request) -> Response:
    file = viewer.asker.page(request.path_params["name"])
    return FileResponse(file, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": REPORT_POLICY})


def _report(viewer: Viewer, request: Request) -> Response:
    return _published(viewer, "eval_report", request.path_params["name"] or "report.html", REPORT_POLICY)


def _preference(viewer: Viewer, request: Request) -> Response:
    return _published(viewer, "preference_bundle", request.path_params["name"] or "index.html", STUDY_POLICY)


def _published(viewer: Viewer, asset: str, name: str, policy: str) -> Response:
    file = viewer.published_file(asset, name)
    kind = {".html": "text/html; charset=utf-8", ".mp4": "video/mp4", ".md": "text/plain; charset=utf-8", ".json": "application/json"}
    return FileResponse(
        file,
        media_type=kind.get(file.suffix, "application/octet-stream"),
        headers={"Content-Security-Policy": policy if file.suffix == ".html" else EXPLORER_POLICY},
    )
