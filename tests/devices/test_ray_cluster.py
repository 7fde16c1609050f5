"""A real cluster of two nodes (two raylets on this machine): a run on it gives the bits of a local one, whatever is killed meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from motive_pipeline.config import parse_config
from motive_pipeline.devices import ray_spread
from motive_pipeline.devices.spread import on_devices
from motive_pipeline.storage.workspace import Workspace
from tests.devices.stage_functions import Rows
from tests.devices.test_devices_graph import SPREAD
from tests.devices.test_ray import SETTINGS, ended
from tests.graph_project import SETTINGS as WHOLE
from tests.graph_project import Project

pytestmark = pytest.mark.slow

PATIENCE = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000", "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_failure_threshold": "3"}  # fmt: skip


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """A head with one core, and a second node with one core."""
    for name, value in PATIENCE.items() | {("RAY_USAGE_STATS_ENABLED", "0")}:
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    ray_spread._end_crew()
    sys.modules["ray"].shutdown()
    cluster.shutdown()


def test_a_run_on_two_nodes_gives_the_bits_of_a_local_one_although_a_node_dies(tmp_path, cluster):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = Project(tmp_path / "one", WHOLE), Project(tmp_path / "two", WHOLE)
    two.set("engine", {"kind": "ray", "address": cluster.address, "threads": 1})
    one.run()
    lines: list[str] = []
    with two.started("run") as run:
        for line in run.stdout:
            lines.append(line)
            if "running" in line and "projected_gradients" in line:
                cluster.remove_node(cluster.second, allow_graceful=False)
        assert run.wait(timeout=60) == 0, "".join(lines)[-4000:]
    log = "".join(lines)

    nodes = set(re.findall(r"worker \d+ on \S+ \((\w+)\) is ready", log))
    assert len(nodes) == 2
    assert "has died" in log
    assets = [
        name for name in one.workspace.graph.assets if name.split("/")[0] in (*SPREAD, "motion_masks", "query_masks", "voted_ranking")
    ]
    versions = {name: (one.workspace.data_version(name), two.workspace.data_version(name)) for name in assets}
    assert {name: pair for name, pair in versions.items() if pair[0] is None or pair[0] != pair[1]} == {}
    assert two.motive("plan").out.strip() == "nothing is stale"


def test_workers_that_are_killed_again_and_again_cost_the_rows_in_flight(tmp_path, cluster):
    ws = Workspace(parse_config(SETTINGS.replace("address: local", f'address: "{cluster.address}"'), tmp_path / "motive.yaml"))
    notes = tmp_path / "notes"
    over = threading.Event()
    killed: list[int] = []

    def kill_now_and_then() -> None:
        while not over.wait(2.5):
            if (pid := int(notes.read_text().split()[-1])) not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    items = [("note", str(notes), number) for number in range(80)]
    killer = threading.Thread(target=kill_now_and_then)
    notes.write_text("0\n")
    with on_devices(ws, Rows) as rows:
        found = {}
        for number, answer in rows.answers(items):
            found[number] = answer
            if len(found) == 1:
                killer.start()
    over.set()
    killer.join()
    assert sorted(found) == list(range(80))
    assert all(int(answer.arrays["x"]) == len(str(item)) for answer, item in zip(map(found.get, range(80)), items, strict=True))
    assert len(killed) >= 3
    assert 80 <= len(notes.read_text().split()) - 1 <= 80 + 2 * len(killed)


def test_a_run_whose_cluster_goes_away_ends_and_the_next_one_goes_on(tmp_path, cluster):
    project = Project(tmp_path, WHOLE)
    project.set("engine", {"kind": "ray", "address": cluster.address, "threads": 1})
    with project.started("run", "--select", "+motion_masks") as run:
        for line in run.stdout:
            if "is ready" in line:
                cluster.shutdown()
                break
        run.communicate(timeout=90)
    assert run.returncode == 1
    project.set("engine", {"kind": "local", "threads": 1})
    assets = project.run("--select", "+motion_masks").assets
    assert assets["motion_masks"]["rows_computed"] + assets["motion_masks"]["rows_reused"] == 18
    assert (assets["clip_catalog"]["status"], assets["clip_catalog"]["rows_computed"]) == ("unchanged", 0)


def test_nothing_outlives_a_killed_run(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            from motive_pipeline.config import parse_config
            from motive_pipeline.devices.spread import on_devices
            from motive_pipeline.storage.workspace import Workspace
            from tests.devices.stage_functions import Rows

            with on_devices(Workspace(parse_config({SETTINGS!r}, Path({str(tmp_path)!r}) / "motive.yaml")), Rows) as rows:
                for _, answer in rows.answers(["a", *[("sleep", 600)] * 4]):
                    print(answer.aside["pid"], flush=True)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        time.sleep(0.5)
        run.kill()
    assert ended(pid, within_s=15)


def test_sigterm_ends_a_run_and_its_workers_with_the_usual_exit_code(tmp_path):
    project = Project(tmp_path, WHOLE)
    project.set("engine", {"kind": "ray", "address": "local", "threads": 1})
    pid = None
    with project.started("run") as run:
        for line in run.stdout:
            if found := re.search(r"is ready \(.*process (\d+)\)", line):
                pid = int(found[1])
                begun = time.monotonic()
                run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=60) == 143
    assert pid is not None
    assert ended(pid)
    assert time.monotonic() - begun < 30
