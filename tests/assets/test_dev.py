"""``make dev``: a code server that dies is noticed and started again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from assets.dev import make_databases, revive
from assets.instance import open_instance
from tests.daemon import until
from tests.graph_project import SETTINGS, Project
from tests.ports import free_port

DEAD = "dagster._core.errors.DagsterUserCodeUnreachableError: Could not reach user code server. gRPC Error code: UNKNOWN\n"
BROKEN = "dagster._core.errors.DagsterUserCodeProcessError: motive.yaml: 1 setting(s) cannot be used"


class Page(ThreadingHTTPServer):
    """Answers as the UI does, with the given message about its only code location, and keeps what it was asked."""

    def __init__(self, message: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.message, self.asked = message, []
        self.url = f"http://127.0.0.1:{self.server_port}/graphql"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        error = {} if self.server.message is None else {"message": self.server.message}
        entries = [{"name": "assets.definitions", "locationOrLoadError": error}]
        body = json.dumps({"data": {"workspaceOrError": {"locationEntries": entries}}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(("message", "expected"), [(DEAD, ["assets.definitions"]), (BROKEN, []), (None, [])])
def test_a_location_whose_server_is_gone_is_reloaded_and_no_other(message, expected):
    with Page(message) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        assert revive(page.url) == expected
        page.shutdown()
    assert [asked["variables"] for asked in page.asked[1:]] == [{"name": name} for name in expected]
    assert all("reloadRepositoryLocation" in asked["query"] for asked in page.asked[1:])


def test_a_ui_that_does_not_answer_yet_is_waited_for():
    assert revive(f"http://127.0.0.1:{free_port()}/graphql") == []


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[dg.DagsterInstance, Path, subprocess.Popen[bytes]]]:
    """``make dev`` for a small project: its instance, its log and its process."""
    project = Project(tmp_path, SETTINGS | {"arms": ["base", "motive"], "schedule": {"watch_interval_s": 5}})
    log = tmp_path / "dev.log"
    command = [sys.executable, "-m", "assets.dev", "--port", str(free_port())]
    make_databases(project.config)
    with open_instance(project.config) as instance, log.open("w") as output:
        environment = os.environ | {"MOTIVE_CONFIG": str(project.file)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            yield instance, log, process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def last_look(instance: dg.DagsterInstance) -> float:
    """When the sensor for new clips last looked without an error; 0 before the first time."""
    states = [state for state in instance.all_instigator_state() if state.name == "watch_clips"]
    ticks = [tick for state in states for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)]
    return max((tick.timestamp for tick in ticks if tick.status.value == "SKIPPED"), default=0.0)


def code_server(session: int) -> int | None:
    """The process that has loaded the code, in the session of ``make dev``."""
    listed = subprocess.run(["ps", "-o", "pid,args", "--sid", str(session)], capture_output=True, text=True, check=False).stdout
    return next((int(line.split()[0]) for line in listed.splitlines() if " api grpc " in line), None)


@pytest.mark.slow
def test_the_sensors_look_again_after_the_code_server_was_killed(started):
    instance, log, process = started
    until(lambda: last_look(instance), "a first look", log, within_s=180.0)
    victim = code_server(process.pid)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    until(lambda: last_look(instance) > killed + 1.0, "a look after the server was killed", log, within_s=180.0)
    assert "the code server of assets.definitions has died" in log.read_text()
    os.kill(process.pid, signal.SIGTERM)
    process.wait(60.0)
    until(lambda: code_server(process.pid) is None, "the end of all processes", log, within_s=60.0)
