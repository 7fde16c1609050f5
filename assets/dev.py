"""``make dev``: the Dagster UI and daemon of one config, and a look every few seconds at whether their code server lives.

``dagster dev`` does not start a code server again that has died (killed, out of memory): sensors, schedules and the queue stand still, and nothing
says so. Here its code location is reloaded, as the button *Reload* in the UI does.

Belongs here: what a person starts by ``make dev``. Does not belong here: which instance a config has (``instance.py``).
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.instance import open_instance
from motive_pipeline.config import Config, load_config
from motive_pipeline.errors import MotiveError

log = logging.getLogger("motive_pipeline.dev")

LOOK_EVERY_S = 10.0
ANSWERS_WITHIN_S = 120.0
UNREACHABLE = ("Could not reach user code server", "DagsterUserCodeUnreachableError")
"""What Dagster says of a code location whose server is gone. Settings that cannot be read are another error, which the UI shows."""

_LOCATIONS = "{workspaceOrError {... on Workspace {locationEntries {name locationOrLoadError {... on PythonError {message}}}}}}"
_RELOAD = "mutation ($name: String!) {reloadRepositoryLocation(repositoryLocationName: $name) {__typename}}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dagster dev`` until it ends or is stopped, and give its exit code."""
    parser = argparse.ArgumentParser(prog="python -m assets.dev", description="The Dagster UI and daemon of the config in MOTIVE_CONFIG.")
    parser.add_argument("--port", type=int, default=3000)
    port = parser.parse_args(argv).port
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = load_config()
        make_databases(config)
    except MotiveError as error:
        print(f"make dev: {error}", file=sys.stderr)
        return 1
    workspace = Path(__file__).parents[1] / "workspace.yaml"
    code = ["-w", str(workspace)] if workspace.exists() else ["-m", "assets.definitions"]
    command = [sys.executable, "-m", "dagster", "dev", *code, "-h", "127.0.0.1", "-p", str(port)]
    dagster = subprocess.Popen(command, env=os.environ | {"MOTIVE_CONFIG": str(config.file)})
    signal.signal(signal.SIGTERM, lambda number, frame: dagster.send_signal(signal.SIGINT))
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return dagster.wait(LOOK_EVERY_S)
            revive(f"http://127.0.0.1:{port}/graphql")
    except KeyboardInterrupt:  # Ctrl-C reaches all processes of the terminal
        return dagster.wait()


def make_databases(config: Config) -> None:
    """Make the databases of a new instance, which the processes of ``dagster dev`` would do all at once and get in each other's way."""
    with open_instance(config) as instance:
        log.debug("%s %s %s", instance.run_storage, instance.event_log_storage, instance.schedule_storage)


def revive(url: str) -> list[str]:
    """Reload the code locations whose server is gone; their names. A UI that does not answer (yet) has none."""
    try:
        gone = unreachable(_ask(url, _LOCATIONS))
        for name in gone:
            log.warning("the code server of %s has died: sensors, schedules and runs stood still. It is started again", name)
            _ask(url, _RELOAD, name=name)
    except (OSError, ValueError) as error:
        log.debug("the UI does not answer: %s", error)
        return []
    return gone


def unreachable(answer: dict[str, Any]) -> list[str]:
    """The names of the code locations in the UI's answer whose server is gone."""
    entries = ((answer.get("data") or {}).get("workspaceOrError") or {}).get("locationEntries") or []
    return [
        entry["name"] for entry in entries if any(words in (entry["locationOrLoadError"] or {}).get("message", "") for words in UNREACHABLE)
    ]


def _ask(url: str, query: str, **variables: str) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN_S) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    sys.exit(main())
