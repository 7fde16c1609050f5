"""Work on the workers of a Ray cluster: as test_spread.py, and what only a cluster can do: lose workers and nodes."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from motive_pipeline.config import parse_config
from motive_pipeline.devices import ray_cluster, ray_crew, ray_spread
from motive_pipeline.devices.ray_worker import Hello, versions
from motive_pipeline.devices.spread import is_spread, num_workers, on_devices
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import ConfigError, GateFailed, MotiveError
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.workspace import Workspace
from tests.devices.stage_functions import Rows, no_build
from tests.devices.test_spread import alive
from tests.ports import free_port
from tests.ray_head import ray_head

SETTINGS = """
clips: {source: demo, num_frames: 5, width: 32, height: 32}
queries: {source: demo}
model: {path: tiny, device: cpu}
engine: {kind: ray, address: local, threads: 1}
"""


@pytest.fixture(scope="module")
def ws(tmp_path_factory) -> Workspace:
    return Workspace(parse_config(SETTINGS, tmp_path_factory.mktemp("ray") / "motive.yaml"))


@pytest.fixture(scope="module", autouse=True)
def cluster_of_this_module():
    yield
    ray_spread._end_crew()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def rows_of(ws, items, build=Rows):
    with on_devices(ws, build) as rows:
        return dict(rows.answers(items))


def test_every_answer_arrives_and_inputs_are_read_ahead_by_workers_that_stay(ws):
    assert is_spread(ws)
    assert num_workers(ws) == os.cpu_count()
    found = rows_of(ws, [("sleep", 0.05 + number / 1000) for number in range(12)])
    assert sorted(found) == list(range(12))
    asides = [answer.aside for answer in found.values()]
    assert os.getpid() not in {aside["pid"] for aside in asides}
    assert all(aside["read_ahead"] for aside in asides)
    again = rows_of(ws, [("sleep", 0.1)] * 4)
    assert {answer.aside["pid"] for answer in again.values()} <= {aside["pid"] for aside in asides}


def test_a_caller_that_leaves_early_leaves_nothing_to_the_next_one(ws):
    with on_devices(ws, Rows) as rows:
        early = rows.answers([("sleep", 0.01), *(("sleep", 0.5 + number / 100) for number in range(7))])
        next(early)
        early.close()
        found = dict(rows.answers(["a", "bb", "ccc", "dddd"]))
    assert {number: int(answer.arrays["x"]) for number, answer in found.items()} == {0: 1, 1: 2, 2: 3, 3: 4}


def test_no_more_workers_make_the_function_than_there_is_work_for(ws):
    rows_of(ws, [("sleep", 0.2)] * 8)
    rows_of(ws, ["a"])
    rounds = [worker.round for worker in ray_spread.crew_of(ws).workers]
    assert len(rounds) > 1
    assert rounds.count(max(rounds)) == 1


def test_a_stage_whose_workers_all_die_ends_with_words_and_rejects_no_row_after_row(ws, monkeypatch):
    monkeypatch.setattr(ray_crew.Crew, "remove", lambda *_: None)
    crew = ray_crew.Crew(ws)
    crew.attempts = 2
    working = ray_spread._Round(crew, ws.config, Rows, list(range(100)), at_once=1)
    rejected = []

    def die(worker_number: int) -> None:
        number = working._to_come.popleft()
        worker = ray_crew.Worker(actor=None, number=worker_number, place="node 7", has={number: 0.0}, last_words="loading the model")
        rejected.extend(working._bury(worker, "it ran out of memory", is_own_fault=True))

    for worker_number in range(4):
        die(worker_number)
    assert [(number, answer.reason) for number, answer in rejected] == [(0, "worker_died"), (1, "worker_died")]
    with pytest.raises(
        MotiveError, match=r"5 workers died, and not one piece of work .* on node 7: it ran out of memory; its last words: loading"
    ):
        die(5)


def test_rows_go_through_compute_rows_and_the_driver_is_the_only_writer(ws, tmp_path):
    items = ["a", "bb", "reject", "cccc"]
    work = [Work(key=f"k{number}", item=item) for number, item in enumerate(items)]
    store = RowStore(tmp_path / "s")
    with on_devices(ws, Rows) as rows:
        outcome = compute_rows(store, work, rows, what="rows")
    assert vars(outcome.counts) == {"computed": 3, "reused": 0, "rejected": 1}
    assert {key: int(store.read(ref, "x")) for key, ref in outcome.refs.items()} == {"k0": 1, "k1": 2, "k3": 4}
    assert outcome.rejects["k2"].reason == "too_dark"


def test_errors_keep_their_kind_and_name_the_node(ws):
    with pytest.raises(GateFailed, match=r"^no query is left \(on node 127\.0\.0\.1 \("):
        rows_of(ws, ["a", "gate"])
    with pytest.raises(GateFailed, match=r"^the model is not there \(on node"):
        rows_of(ws, ["a", "b", "c"], no_build)
    with pytest.raises(RuntimeError, match=r"worker \d+ on 127(.|\n)*in __call__(.|\n)*ZeroDivisionError: a bug"):
        rows_of(ws, ["bug"])
    assert len(rows_of(ws, ["a", "b"])) == 2  # the next stage has new workers


def test_a_row_that_kills_its_worker_is_rejected_with_its_last_words_and_all_others_are_computed(ws, caplog):
    caplog.set_level("INFO", logger="motive_pipeline")
    found = rows_of(ws, ["a", "b", "last words", "c", "d", "e"])
    assert sorted(found) == list(range(6))
    assert (found[2].reason, found[2].transient) == ("worker_died", True)
    assert "3 workers died while they computed it: its process ended without a word" in found[2].detail
    assert found[2].detail.endswith(": about to die")
    assert sum("has died" in message for message in caplog.messages) == 3
    assert not [answer for number, answer in found.items() if number != 2 and isinstance(answer, Exception)]


def test_log_lines_reach_the_log_of_the_run_with_the_worker(ws, caplog):
    caplog.set_level("INFO", logger="motive_pipeline")
    rows_of(ws, ["log"])
    assert any(message.startswith("worker ") and message.endswith(": working on log") for message in caplog.messages)


@pytest.mark.slow
def test_workers_that_fall_silent_are_replaced(make_config):
    ws = Workspace(make_config(SETTINGS.replace("threads: 1", "threads: 1, workers: {silent_s: 3}")))
    stopped: list[int] = []
    with on_devices(ws, Rows) as rows:
        for number, answer in rows.answers([("sleep", 0.3)] * 8):
            assert answer.aside["device"] == "cpu", number
            if not stopped:
                stopped.append(answer.aside["pid"])
                os.kill(answer.aside["pid"], signal.SIGSTOP)
    assert not alive(stopped[0]) or ended(stopped[0])


def ended(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(pid)


def test_an_error_in_the_run_ends_what_the_workers_do(ws):
    seen: set[int] = set()

    def stopped_after_two() -> None:
        with on_devices(ws, Rows) as rows:
            for _, answer in rows.answers(["a", "b", ("sleep", 60), ("sleep", 60), ("sleep", 60)]):
                seen.add(answer.aside["pid"])
                if len(seen) >= 1:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_after_two()
    assert all(ended(pid) for pid in seen)


def test_too_few_workers_are_named_with_what_they_need(make_config):
    ws = Workspace(make_config(SETTINGS.replace("threads: 1", "threads: 1, workers: {cpus: 500, wait_s: 1}")))
    with pytest.raises(
        MotiveError, match=r"engine.workers: 0 of at least 1 workers were ready after 1 s\. A worker needs 500 CPU; the cluster has \d+ CPU"
    ):
        rows_of(ws, ["a"])


def test_a_node_without_the_folders_or_with_other_versions_is_named(ws):
    crew = ray_crew.Crew(ws)
    worker = ray_crew.Worker(actor=None, number=7)
    hello = {"pid": 1, "node": "10.0.0.2 (abc)", "versions": versions(), "device": "CPU"}
    with pytest.raises(
        MotiveError, match=r"node 10\.0\.0\.2 \(abc\) lacks /data/clips\. Clips, model and storage\.root must lie in a folder"
    ):
        crew.took_hello(worker, Hello(**hello, absent=["/data/clips"]))
    with pytest.raises(MotiveError, match=r"node 10\.0\.0\.2 \(abc\) has other versions .*: torch 1\.0 \(here 2\."):
        crew.took_hello(worker, Hello(**hello | {"versions": versions() | {"torch": "1.0"}}, absent=[]))
    assert not worker.is_ready


def test_a_worker_says_what_its_node_lacks(ws, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_crew.Crew, "_paths", lambda _: [tmp_path, tmp_path / "absent"])
    ray_spread._end_crew()
    with pytest.raises(MotiveError, match=rf"node 127\.0\.0\.1 .* lacks {tmp_path / 'absent'}"):
        rows_of(ws, ["a"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("here", "there", "said"),
    [("token", "disabled", "was started without a token, so whoever reaches it can run code on it. Start it with RAY_AUTH_MODE=token"),
     ("disabled", "token", "asks for a token, and RAY_AUTH_MODE is disabled here. Unset it, or set it to token")],
)  # fmt: skip
def test_a_token_on_one_side_only_is_said(make_config, monkeypatch, here, there, said):
    monkeypatch.setenv("RAY_AUTH_MODE", here)
    with ray_head(auth_mode=there) as head:
        ws = Workspace(make_config(SETTINGS.replace("address: local", f'address: "{head.address}"')))
        with pytest.raises(MotiveError, match=re.escape(f"engine.address: the cluster at {head.address} {said}")):
            rows_of(ws, ["a"])


def test_nothing_at_the_address_is_said_within_seconds(make_config, monkeypatch):
    place = f"127.0.0.1:{free_port()}"
    before = time.monotonic()
    with pytest.raises(MotiveError, match=rf"engine\.address: nothing answers at {place}"):
        ray_cluster._require_answer(place)
    monkeypatch.setattr("motive_pipeline.internals.ray.address_of_this_machine", lambda: None)
    with pytest.raises(MotiveError, match="this machine belongs to no Ray cluster"):
        ray_cluster._place_of("auto")
    assert time.monotonic() - before < 4


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("{kind: ray, address: 'ray://head:10001'}", r"Ray Client \(ray://\) is not used"),
        ("{kind: ray, address: head}", "host:port"),
        ("{kind: ray, address: 'user:secret@head:6379'}", "host:port"),
        ("{kind: ray, devices: [cpu, cpu]}", "devices is for kind: local"),
        ("{kind: spark}", "'local' or 'ray'"),
        ("{kind: ray, workers: {least: 4, most: 2}}", r"most \(2\) must not be below least \(4\)"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make_config, engine, said):
    with pytest.raises(ConfigError, match=said):
        make_config(SETTINGS.replace("{kind: ray, address: local, threads: 1}", engine))


def test_the_mark_in_the_root_goes_with_the_run(ws):
    rows_of(ws, ["a"])
    marks = list(Path(ws.root).glob(".cluster-*"))
    assert len(marks) == 1
    ray_spread._end_crew()
    assert not list(Path(ws.root).glob(".cluster-*"))
