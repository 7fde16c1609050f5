"""The addresses that answer with a file: the page, pictures and videos, downloads, and the published pages."""

from __future__ import annotations

import importlib.util
import io
import mimetypes
from importlib.resources import files
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from motive_pipeline.pages import DESIGN
from motive_pipeline.view.answering import snapshot_of, view_of
from motive_pipeline.view.clip_view import BadRequest
from motive_pipeline.view.guard import EXPLORER_POLICY, MAP_POLICY, REPORT_POLICY, STUDY_POLICY
from motive_pipeline.view.pictures import KINDS, VIDEO_KINDS
from motive_pipeline.view.snapshot import INFLUENCE
from motive_pipeline.view.viewer import Viewer

_STATIC = files("motive_pipeline.view") / "static"
_KEPT = {"Cache-Control": "private, max-age=3600"}
"""For what is named by its content."""


def index_page(viewer: Viewer, request: Request) -> Response:
    return Response((_STATIC / "index.html").read_bytes(), media_type="text/html; charset=utf-8")


def static_file(viewer: Viewer, request: Request) -> Response:
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


def tile(viewer: Viewer, request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind not in KINDS:
        raise BadRequest(f"a picture is one of {', '.join(KINDS)}, not {kind!r}")
    return FileResponse(viewer.pictures.tile(viewer.subject(request.path_params["clip_id"]), kind), media_type="image/webp", headers=_KEPT)


def video(viewer: Viewer, request: Request) -> Response:
    kind, subject = request.path_params["kind"], viewer.subject(request.path_params["clip_id"])
    if kind == "original":
        if (found := viewer.pictures.original(subject)) is not None:
            return FileResponse(found[0], media_type=found[1])
        kind = "scored"
    if kind not in VIDEO_KINDS:
        raise BadRequest(f"a video is original or one of {', '.join(VIDEO_KINDS)}, not {kind!r}")
    return FileResponse(viewer.pictures.scored(subject, kind), media_type="video/mp4", headers=_KEPT)


def download(viewer: Viewer, request: Request) -> Response:
    """The present view as a file."""
    seen, view, edits = snapshot_of(viewer, request), view_of(request), viewer.edits()
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


def explanation(viewer: Viewer, request: Request) -> Response:
    file = viewer.explanation(request.path_params["clip_id"])
    return FileResponse(file, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": REPORT_POLICY})


def asked_page(viewer: Viewer, request: Request) -> Response:
    file = viewer.asker.page(request.path_params["name"])
    return FileResponse(file, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": REPORT_POLICY})


def report(viewer: Viewer, request: Request) -> Response:
    return _published(viewer, "eval_report", request.path_params["name"] or "report.html", REPORT_POLICY)


def preference(viewer: Viewer, request: Request) -> Response:
    return _published(viewer, "preference_bundle", request.path_params["name"] or "index.html", STUDY_POLICY)


def _published(viewer: Viewer, asset: str, name: str, policy: str) -> Response:
    file = viewer.published_file(asset, name)
    kind = {".html": "text/html; charset=utf-8", ".mp4": "video/mp4", ".md": "text/plain; charset=utf-8", ".json": "application/json"}
    return FileResponse(
        file,
        media_type=kind.get(file.suffix, "application/octet-stream"),
        headers={"Content-Security-Policy": policy if file.suffix == ".html" else EXPLORER_POLICY},
    )
