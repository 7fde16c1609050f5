"""What the explorer's addresses share: how an answer is made, errors as answers, JSON, and the parameters of a request."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motive_pipeline.errors import MotiveError
from motive_pipeline.view.clip_view import BadRequest, ClipView
from motive_pipeline.view.pictures import NoPicture
from motive_pipeline.view.snapshot import Snapshot
from motive_pipeline.view.viewer import Gone, Viewer

Answer = Callable[[Viewer, Request], Response]

MAX_BODY = 2_000_000
_STATUS = {NoPicture: 404, Gone: 410, BadRequest: 400}


def answering(viewer: Viewer, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that gives ``answer`` in a worker thread; a MotiveError becomes an answer, too."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_or_error, lambda: answer(viewer, request))

    return endpoint


def with_body(viewer: Viewer, answer: Callable[[Viewer, Any], Response]) -> Callable[[Request], Awaitable[Response]]:
    """The same for a request whose body is JSON of at most ``MAX_BODY`` bytes: ``answer`` is called with the viewer and the parsed body."""

    async def endpoint(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"more than {MAX_BODY} bytes"}, status_code=413)
        return await run_in_threadpool(_or_error, lambda: answer(viewer, parsed(body.decode("utf-8", "replace"), "the body")))

    return endpoint


def _or_error(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except MotiveError as error:
        return error_answer(error)


def error_answer(error: MotiveError) -> Response:
    """What went wrong, as JSON, with the status of its kind."""
    return JSONResponse({"error": str(error)}, status_code=_STATUS.get(type(error), 409))


def json_answer(value: Any) -> Response:
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


def parsed(text: str, name: str) -> Any:
    """The JSON in ``text``. Raises BadRequest, which calls it ``name``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"{name} is no JSON: {error}") from error


def snapshot_of(viewer: Viewer, request: Request) -> Snapshot:
    """The version of the scores that the page looks at. Raises Gone if it is no longer held."""
    return viewer.snapshot(request.query_params.get("v", ""))


def view_of(request: Request) -> ClipView:
    """The filters and the order that the page asks for. Raises BadRequest."""
    return ClipView.parse(parsed(request.query_params.get("view", "{}"), "view"))


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    """The parameter ``name``, at most ``most``. Raises BadRequest if it is no whole number."""
    text = request.query_params.get(name, str(default))
    if not text.isdecimal():
        raise BadRequest(f"{name}: {text!r} is not a whole number")
    return min(int(text), most)
