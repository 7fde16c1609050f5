"""The simulation of the cluster (benchmarks/cluster_sim.py) gives what can be worked out by hand."""

from dataclasses import replace

import pytest

from benchmarks.cluster_sim import ENOUGH, Constants, driver_seconds, simulate, too_many
from benchmarks.scale_on_paper import ENGINE, commits_s, shown_bytes, shown_s

FREE = Constants(row_s=3.0, row_spread=0.0, driver_row_s=0.0, driver_wake_worker_s=0.0, commit_s=0.0, commit_row_s=0.0)
"""Only the workers take time."""

IDLE_DRIVER = replace(FREE, driver_row_s=1e-6)
SLOW_DRIVER = replace(FREE, row_s=1.0, row_spread=0.1, driver_row_s=2e-3, commit_s=0.016, commit_row_s=0.5e-3)


@pytest.mark.parametrize("workers", [1, 8, 64])
def test_few_workers_make_their_own_rate(workers):
    found = simulate(IDLE_DRIVER, workers)
    assert found.rate == pytest.approx(workers / 3.0, rel=0.02)
    assert found.utilisation == pytest.approx(1.0, abs=0.02)
    assert found.driver_share < 0.001


def test_many_workers_make_the_drivers_rate():
    found = simulate(SLOW_DRIVER, 1000)
    assert driver_seconds(SLOW_DRIVER) == pytest.approx(3e-3), "2.5 ms a row, and 16 ms for every 32nd"
    assert found.rate == pytest.approx(1 / 3e-3, rel=0.01)
    assert found.utilisation == pytest.approx(found.rate * 1.0 / 1000, rel=0.03), "rows a second times seconds a row, over the workers"
    assert found.driver_share == pytest.approx(1.0, abs=0.01)
    assert found.writer_share == pytest.approx(1 / 3, abs=0.02)
    assert found.waiting_mean > 100


def test_the_loop_looks_after_every_worker_at_each_wake():
    slow = simulate(replace(IDLE_DRIVER, row_spread=0.3, driver_wake_worker_s=1e-3), 10, num_rows=2000)
    assert slow.driver_share == pytest.approx(10 / 3.0 * 10 * 1e-3, rel=0.1), "3.3 wakes a second, each 10 ms"


def test_with_one_row_in_flight_a_worker_waits_for_the_driver():
    one = replace(IDLE_DRIVER, driver_row_s=1.0, rows_in_flight=1, commit_rows=1000, commit_every_s=1e9)
    assert simulate(one, 1, num_rows=500).rate == pytest.approx(1 / 4.0, rel=0.01)
    assert simulate(replace(one, rows_in_flight=2), 1, num_rows=500).rate == pytest.approx(1 / 3.0, rel=0.01)


def test_rows_of_dead_workers_are_computed_again_and_cost_their_time():
    dying = replace(IDLE_DRIVER, deaths_per_hour=6.0, notice_s=2.5, restart_s=97.5)
    lives_s, down_s, lost_s = 600.0, 100.0, 1.5
    found = simulate(dying, 64, num_rows=30_000)
    assert found.utilisation == pytest.approx((lives_s - lost_s) / (lives_s + down_s), abs=0.015)


def test_a_seed_gives_the_same_run_and_another_one_another():
    noisy = replace(SLOW_DRIVER, row_spread=0.5, deaths_per_hour=1.0)
    assert simulate(noisy, 16, seed=3) == simulate(noisy, 16, seed=3) != simulate(noisy, 16, seed=4)


def test_too_many_is_where_the_driver_has_no_time_left():
    limit = too_many(SLOW_DRIVER)
    assert limit == pytest.approx(1.0 / 3e-3 / ENOUGH, rel=0.1), "the driver's rate is 90 % of that of so many workers"
    assert too_many(FREE, most=64) is None


def test_the_paper_adds_up_what_every_commit_takes():
    one_by_one = sum(ENGINE.commit_s + 32 * ENGINE.commit_row_s for _ in range(3125))
    assert commits_s(100_000, 32) == pytest.approx(one_by_one, rel=1e-3)
    assert commits_s(100_000, 512) < one_by_one / 4


def test_times_and_sizes_are_shown_in_their_units():
    assert [shown_s(each) for each in (59, 600, 36_000, 200_000)] == ["59 s", "10 min", "10 h", "2.3 d"]
    assert [shown_bytes(each) for each in (5e6, 8.192e9, 9.44e12, 1e15)] == ["5 MB", "8.19 GB", "9.44 TB", "1 PB"]
