"""Work over the processes of several devices: every answer arrives, errors keep their words, and no process outlives its run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from assets.devices import require_devices
from assets.names import asset_key
from motive_pipeline import doctor
from motive_pipeline.devices.spread import Spread, on_devices
from motive_pipeline.engine import Computed, Work, compute_rows
from motive_pipeline.errors import ConfigError, GateFailed, MotiveError, RejectRow
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.workspace import Workspace
from tests.devices.stage_functions import Rows, no_build

TWO = """
clips: {source: demo, num_frames: 5, width: 32, height: 32}
queries: {source: demo}
model: {path: tiny, device: auto}
engine: {devices: [cpu, cpu], threads: 1}
"""


@pytest.fixture
def two(make_config) -> Workspace:
    return Workspace(make_config(TWO))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_answer_arrives_from_both_processes_and_the_inputs_are_read_ahead(two):
    with on_devices(two, Rows) as rows:
        found = dict(rows.answers([("sleep", 0.05 + number / 1000) for number in range(8)]))
    assert sorted(found) == list(range(8))
    asides = [answer.aside for answer in found.values()]
    assert len({aside["pid"] for aside in asides}) == 2
    assert os.getpid() not in {aside["pid"] for aside in asides}
    assert {aside["device"] for aside in asides} == {"cpu"}
    assert all(aside["read_ahead"] for aside in asides)


def test_a_caller_that_leaves_early_leaves_nothing_to_the_next_one(two):
    with on_devices(two, Rows) as rows:
        early = rows.answers([("sleep", 0.01), *(("sleep", 0.5 + number / 100) for number in range(7))])
        next(early)
        early.close()
        found = dict(rows.answers(["a", "bb", "ccc", "dddd"]))
    assert {number: int(answer.arrays["x"]) for number, answer in found.items()} == {0: 1, 1: 2, 2: 3, 3: 4}


def test_a_slow_row_holds_nobody_up(two):
    with on_devices(two, Rows, at_once=1) as rows:
        order = [number for number, _ in rows.answers([("sleep", 1.0), *("abcd")])]
    assert order == [1, 2, 3, 4, 0]


def test_rows_go_through_compute_rows_as_from_one_process(two, tmp_path):
    told = {}
    items = ["a", "bb", "reject", "cccc"]
    work = [Work(key=f"k{number}", item=item) for number, item in enumerate(items)]
    store = RowStore(tmp_path / "s")
    with on_devices(two, Rows) as rows:
        outcome = compute_rows(store, work, rows, what="rows", told=lambda item, aside: told.update({item: aside["device"]}))
    assert vars(outcome.counts) == {"computed": 3, "reused": 0, "rejected": 1}
    assert {key: int(store.read(ref, "x")) for key, ref in outcome.refs.items()} == {"k0": 1, "k1": 2, "k3": 4}
    assert outcome.rejects["k2"].reason == "too_dark"
    assert store.find("k2") is None  # transient: it is tried again
    assert told == {"a": "cpu", "bb": "cpu", "cccc": "cpu"}


def test_rejections_and_errors_keep_their_kind_and_words(two):
    with on_devices(two, Rows) as rows:
        ((_, rejection),) = rows.answers(["reject"])
    assert isinstance(rejection, RejectRow)
    assert (rejection.reason, rejection.detail, rejection.transient) == ("too_dark", "it is too dark", True)
    with pytest.raises(GateFailed, match=r"^no query is left$"), on_devices(two, Rows) as rows:
        list(rows.answers(["a", "gate"]))
    with pytest.raises(GateFailed, match=r"^the model is not there$"), on_devices(two, no_build) as rows:
        list(rows.answers(["a", "b", "c"]))
    with (
        pytest.raises(RuntimeError, match=r"process of cpu:(.|\n)*in __call__(.|\n)*ZeroDivisionError: a bug"),
        on_devices(two, Rows) as rows,
    ):
        list(rows.answers(["bug"]))


def test_a_process_that_dies_is_named_with_its_work_and_the_next_stage_has_a_new_one(two):
    with pytest.raises(MotiveError, match=r"process of cpu .*died while it had die: signal 9.*run again"), on_devices(two, Rows) as rows:
        list(rows.answers(["die"]))
    with on_devices(two, Rows) as rows:
        assert len(list(rows.answers(["a", "b"]))) == 2


def test_a_process_that_dies_after_its_work_costs_nothing(two):
    with on_devices(two, Rows) as rows:
        (_, answer), *_ = rows.answers(["a", "b"])
        os.kill(answer.aside["pid"], signal.SIGKILL)
        while answer.aside["pid"] in {child.pid for child in multiprocessing.active_children()}:
            time.sleep(0.01)
    with on_devices(two, Rows) as rows:
        assert len(list(rows.answers(["a", "b"]))) == 2


def test_a_run_looks_for_its_devices_before_any_work(make_config):
    ws = Workspace(make_config(TWO.replace("cpu, cpu", '"cuda:0", "cuda:99"')))
    with pytest.raises(MotiveError, match=r"engine\.devices = 'cuda:\d+' cannot be used here"):
        require_devices(ws, [asset_key("latents")])
    require_devices(ws, [asset_key("clip_catalog")])  # needs none
    found = doctor._gpu(ws.config)
    assert (found.status, "engine.devices names 'cuda:" in found.detail) == ("fail", True)


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("[cuda]", "set model.device: cuda"),
        ("[cpu]", "lists one device: set model.device: cpu"),
        ("[cuda, cpu]", "'cuda' is neither"),
        ('[cpu, "cuda:0"]', "must be of one kind"),
        ('["cuda:1", "cuda:1"]', "names cuda:1 twice"),
        ("gpu", "auto"),
    ],
)
def test_devices_that_cannot_be_meant_are_refused(make_config, devices, said):
    with pytest.raises(ConfigError, match=said) as refused:
        make_config(TWO.replace("[cpu, cpu]", devices))
    assert "engine.devices" in str(refused.value)


def test_the_processes_share_the_decode_workers(make_config):
    config = make_config(TWO.replace("threads: 1", "threads: 1, decode_workers: 5"))
    own = config.on_device("cpu")
    assert (own.model.device, own.engine.devices, own.engine.num_decode_workers) == ("cpu", (), 2)
    assert make_config(TWO.replace("threads: 1", "threads: 1, decode_workers: 0")).on_device("cpu").engine.num_decode_workers == 0


def test_an_error_in_the_run_ends_what_the_processes_do(two):
    pids = set()

    def stopped_after_two() -> None:
        with on_devices(two, Rows) as rows:
            for _, answer in rows.answers(["a", "b", ("sleep", 60), ("sleep", 60)]):
                assert isinstance(answer, Computed)
                pids.add(answer.aside["pid"])
                if len(pids) == 2:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_after_two()
    assert not any(alive(pid) for pid in pids)


def test_no_process_starts_without_work_or_for_fewer_pieces_than_devices(two):
    with on_devices(two, no_build) as rows:
        assert list(rows.answers([])) == []
    with on_devices(two, Rows) as rows:
        assert len({answer.aside["pid"] for _, answer in rows.answers(["a"])}) == 1


def test_log_lines_reach_the_log_of_the_run_with_the_device(two, caplog):
    caplog.set_level("INFO", logger="motive_pipeline")
    with on_devices(two, Rows) as rows:
        list(rows.answers(["log"]))
    assert "cpu: working on log" in caplog.messages


def test_one_device_works_in_this_process(workspace):
    with on_devices(workspace, Rows) as rows:
        assert not isinstance(rows, Spread)
        assert rows("a").aside["pid"] == os.getpid()


def test_the_processes_end_with_a_killed_run(tmp_path):
    """Also one in the middle of hours of work: the next run would do the same beside it."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from motive_pipeline.config import parse_config
            from motive_pipeline.devices.spread import on_devices
            from motive_pipeline.storage.workspace import Workspace
            from tests.devices.stage_functions import Rows

            if __name__ == "__main__":
                with on_devices(Workspace(parse_config({TWO!r}, __import__("pathlib").Path({str(tmp_path)!r}) / "motive.yaml")), Rows) as rows:
                    for _, answer in rows.answers(["a", "b", ("sleep", 600), ("sleep", 600)]):
                        print(answer.aside["pid"], flush=True)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()}
    ) as run:
        assert run.stdout is not None
        pids = [int(run.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in pids)
        run.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
