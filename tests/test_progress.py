"""The one way a long job says how far it is."""

import pytest

from motive_pipeline import progress as module
from motive_pipeline.progress import Progress


class Clock:
    """A clock that stands still until it is told to go on."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_line_names_done_total_rate_and_time_left():
    job = Progress("latents", 10, unit="clips", clock=Clock())
    job.computed = 4
    assert job.line(2.0) == "latents: 4 of 10 clips, 2 clips/s, 3 s left"
    assert job.line(2.0, "loss 0.5") == "latents: 4 of 10 clips, 2 clips/s, 3 s left, loss 0.5"


def test_what_was_there_already_is_done_but_does_not_count_for_the_rate():
    job = Progress("latents", 10, clock=Clock())
    job.computed, job.reused, job.rejected = 2, 5, 1
    assert job.line(1.0) == "latents: 8 of 10 rows (2 computed, 5 reused, 1 rejected), 3 rows/s, 1 s left"


def test_a_job_of_unknown_size_has_no_total_and_no_time_left():
    job = Progress("clips", None, unit="files", clock=Clock())
    job.computed = 7
    assert job.line(2.0) == "clips: 7 files, 3.5 files/s"


def test_nothing_done_yet_and_everything_done_have_no_time_left():
    job = Progress("latents", 3, clock=Clock())
    assert job.line(0.0) == "latents: 0 of 3 rows, 0 rows/s"
    job.computed = 3
    assert job.line(3.0) == "latents: 3 of 3 rows, 1 rows/s"


def test_amounts_that_are_no_whole_numbers_have_one_decimal():
    job = Progress("fetch", 66.04, unit="MB", clock=Clock())
    job.computed = 1.25
    assert job.line(1.0).startswith("fetch: 1.2 of 66.0 MB, 1.25 MB/s")


def test_a_line_comes_every_few_seconds_and_at_the_end(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="motive_pipeline")
    clock = Clock()
    job = Progress("training", 4, unit="steps", clock=clock)
    job.step()
    assert not caplog.records, "not at once"
    clock.now_s += module.REPORT_EVERY_S
    job.step(note="loss 0.25")
    job.step()
    assert [record.getMessage() for record in caplog.records] == ["training: 2 of 4 steps, 0.4 steps/s, 5 s left, loss 0.25"]
    job.step()
    assert len(caplog.records) == 2, "the last one is always logged"
