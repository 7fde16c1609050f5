"""Videos are read in other processes: the same bits, in order, ahead; a decoder that dies or hangs costs one clip."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from motive_pipeline.catalog.stage import publish_clip_catalog
from motive_pipeline.config import Engine
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.video import readers
from motive_pipeline.video import worker_pool as workers_module
from motive_pipeline.video.decode import read_clip
from motive_pipeline.video.probe import probe
from motive_pipeline.video.readers import ClipReader, FrameReader, Prober
from motive_pipeline.video.worker_pool import DecodePool, Task
from tests.clip_fixtures import RULE, counting_frames, moving_square, project, write_project, write_video


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    return [write_video(tmp_path / f"{n}.mp4", moving_square(step_px=n, seed=n)) for n in range(6)]


def same(left, right) -> bool:
    return np.array_equal(left.frames_THWC, right.frames_THWC) and left.flags == right.flags and np.array_equal(left.times_s, right.times_s)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_any_number_of_workers_gives_the_same_bits_in_order(clips, num_workers):
    reader = ClipReader(RULE, Engine(decode_workers=num_workers))
    reader.prefetch(clips)
    for path in clips:
        assert same(reader(path), read_clip(path, RULE)), path


def test_probes_and_glimpses_are_the_same_too(clips):
    prober, frame_reader = Prober(Engine(decode_workers=2)), FrameReader(Engine(decode_workers=2), 0.5, width=32, height=32)
    prober.prefetch(clips)
    assert [prober(path) for path in clips] == [probe(path) for path in clips]
    assert frame_reader(clips[0]).shape == (32, 32, 3)


def test_a_path_that_was_not_expected_and_one_that_is_asked_for_again_are_read_when_asked_for(clips):
    reader = ClipReader(RULE, Engine(decode_workers=1))
    reader.prefetch(clips[:2])
    assert same(reader(clips[3]), read_clip(clips[3], RULE))
    assert same(reader(clips[0]), read_clip(clips[0], RULE))
    assert same(reader(clips[0]), read_clip(clips[0], RULE))
    assert same(reader(clips[1]), read_clip(clips[1], RULE))


def test_a_rejection_comes_back_as_it_was(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"")
    with pytest.raises(RejectRow) as caught:
        ClipReader(RULE, Engine(decode_workers=1))(tmp_path / "v.mp4")
    assert (caught.value.reason, caught.value.detail, caught.value.transient) == ("empty_file", "the file has 0 bytes", False)


def test_only_a_few_clips_are_read_ahead(clips, monkeypatch):
    asked = []
    real = DecodePool.submit
    monkeypatch.setattr(DecodePool, "submit", lambda self, tasks: asked.append(len(tasks)) or real(self, tasks))
    reader = ClipReader(RULE, Engine(decode_workers=1))
    reader.prefetch(clips)
    assert len(asked) == 3, "one worker and two more"
    reader(clips[0])
    assert len(asked) == 4


def test_paths_that_become_known_one_by_one_are_probed_meanwhile_in_whole_messages(clips, monkeypatch):
    monkeypatch.setattr(readers, "PROBES_AT_ONCE", 2)
    asked, wanted = [], clips * 4 + clips[:1]
    real = DecodePool.submit
    monkeypatch.setattr(DecodePool, "submit", lambda self, tasks: asked.append(len(tasks)) or real(self, tasks))
    prober = Prober(Engine(decode_workers=1))
    until = time.monotonic() + 30
    for path in wanted:
        prober.prefetch([path])
    while sum(asked) < len(wanted) - 1 and time.monotonic() < until:
        time.sleep(0.01)
        prober.prefetch([])
    assert asked == [2] * 12, "nobody has asked for a result yet, and all but the last, half message was sent"
    assert [prober(path) for path in wanted] == [probe(path) for path in wanted]
    assert asked == [2] * 12 + [1]


@pytest.mark.parametrize(
    ("name", "reason"), [("crash", "decoder_crash"), ("hang", "decode_timeout"), ("memory", "out_of_memory"), ("bug", "reader_error")]
)
def test_a_decoder_that_dies_hangs_or_has_no_memory_costs_one_clip(tmp_path, strange_workers, name, reason):
    (tmp_path / "clips").mkdir()
    for number in range(4):
        write_video(tmp_path / "clips" / f"{number}.mp4", moving_square(seed=number))
    write_video(tmp_path / "clips" / f"1-{name}.mp4", moving_square(seed=9))
    ws = project(tmp_path, engine={"decode_workers": 1, "decode_timeout_s": 2.0})
    publication = publish_clip_catalog(ws)
    assert [Path(str(row["path"])).name for row in publication.rejects().to_dict("records")] == [f"1-{name}.mp4"]
    assert publication.rejects()["reason"].tolist() == [reason]
    assert len(publication.table("catalog")) == 4


def test_an_exception_that_nobody_expected_is_named_in_the_reject_and_tried_again(tmp_path, strange_workers):
    write_video(tmp_path / "bug.mp4", counting_frames(9))
    with pytest.raises(
        RejectRow, match=r"ZeroDivisionError: nobody thought of this \(strange.py, line \d+\)\. Please report this"
    ) as caught:
        Prober(Engine(decode_workers=1))(tmp_path / "bug.mp4")
    assert caught.value.reason == "reader_error"
    assert caught.value.transient


def test_without_workers_an_exception_that_nobody_expected_costs_one_clip_too(tmp_path, monkeypatch):
    def divide(*_):
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(readers, "read_clip", divide)
    with pytest.raises(RejectRow, match="ZeroDivisionError: nobody thought of this"):
        ClipReader(RULE, Engine(decode_workers=0))(tmp_path / "v.mp4")


def test_what_a_busy_machine_may_have_caused_is_tried_again(tmp_path, strange_workers):
    write_video(tmp_path / "crash.mp4", counting_frames(9))
    with pytest.raises(RejectRow) as caught:
        Prober(Engine(decode_workers=1))(tmp_path / "crash.mp4")
    assert caught.value.transient
    assert "SIGABRT" in caught.value.detail


def test_latents_and_masks_do_not_depend_on_the_workers(tmp_path):
    write_project(tmp_path)
    contents = set()
    for number in (0, 2):
        ws = project(tmp_path, engine={"decode_workers": number}, storage={"root": f"root-{number}"})
        publish_clip_catalog(ws)
        publications = [publish_latents(ws, role="clip"), publish_motion_masks(ws, role="clip")]
        contents.add(tuple(publication.data_version for publication in publications))
    assert len(contents) == 1


def test_a_worker_is_replaced_after_many_tasks_and_ends_with_the_run(clips, monkeypatch):
    monkeypatch.setattr(workers_module, "MAX_TASKS", 2)
    pool = DecodePool(1, 60.0)
    for path in clips[:3]:
        pool.submit([Task(task="facts", file=MediaFile(path=path), arguments={})]).result()
    worker = pool._workers[0]
    process = worker._process
    assert process is not None
    assert process.poll() is None, "the second one is at work"
    pool.close()
    assert process.poll() == 0


def test_a_worker_that_cannot_even_be_interrupted_is_given_up_after_its_time(clips, monkeypatch):
    monkeypatch.setattr(workers_module, "UNANSWERED_S", 0.5)
    pool = DecodePool(1, 5.0)
    tasks = [Task(task="facts", file=MediaFile(path=path), arguments={}) for path in clips[:2]]
    pool.submit(tasks[:1]).result()
    stopped = pool._workers[0]._process
    assert stopped is not None
    stopped.send_signal(signal.SIGSTOP)  # no alarm reaches it, as if it waited for a disk
    first, second = pool.submit(tasks).result()
    assert isinstance(first, RejectRow)
    assert (first.reason, first.transient) == ("decode_timeout", True)
    assert not isinstance(second, RejectRow)
    assert stopped.wait(timeout=10) == -signal.SIGKILL
    pool.close()


def test_workers_end_when_the_run_is_killed(clips, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from motive_pipeline.config import Engine\n"
        "from motive_pipeline.video.readers import Prober\nfrom motive_pipeline.video.worker_pool import decode_pool\n"
        f"Prober(Engine(decode_workers=1))(Path({str(clips[0])!r}))\n"
        "print(decode_pool(1, 120.0)._workers[0]._process.pid, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    for _ in range(100):
        if not _is_running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker has outlived its run")


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
