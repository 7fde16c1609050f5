"""Runs the explorer on 127.0.0.1 until it is stopped."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing

import uvicorn
from starlette.applications import Starlette

from motive_pipeline.errors import MotiveError
from motive_pipeline.view.endpoints import routes
from motive_pipeline.view.guard import TOKEN, Guard
from motive_pipeline.view.viewer import Viewer

HOST = "127.0.0.1"
USUAL_PORT = 8700
_TRIED_PORTS = 20


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)


def build_app(viewer: Viewer, *, token: str, port: int) -> Guard:
    """The explorer as an ASGI application that answers at ``port``."""
    return Guard(Starlette(routes=routes(viewer)), token=token, port=lambda: port)


def listening_socket(port: int | None) -> socket.socket:
    """A socket that listens on 127.0.0.1: on ``port``, else on the first free one from 8700 on, else on any.

    Raises:
        MotiveError: ``port`` is taken.
    """
    wanted = [port] if port is not None else [*range(USUAL_PORT, USUAL_PORT + _TRIED_PORTS), 0]
    for number in wanted:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
            listener.listen(128)
        except OSError:
            listener.close()
        else:
            return listener
    raise MotiveError(f"--port {port} is taken, perhaps by another viewer. Give another one, or none: then a free one is found.")


def serve(viewer: Viewer, *, port: int | None, opened: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. ``opened`` gets the address, with its token, once it answers.

    Raises:
        MotiveError: the port is taken.
    """
    token = new_token()
    with closing(listening_socket(port)) as listener:
        number = listener.getsockname()[1]
        app = build_app(viewer, token=token, port=number)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="viewer"
        )  # there, uvicorn leaves signals to the command
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            opened(f"http://{HOST}:{number}/?{TOKEN}={token}")
            while thread.is_alive():
                thread.join(1.0)
        finally:
            server.should_exit = True
            thread.join()
            viewer.close()
