"""Crash safety of the whole graph, the short version; ``make crash`` runs the long one."""

from tests.crash import torture


def test_killed_runs_end_where_an_undisturbed_run_ends(tmp_path):
    hit = torture(tmp_path, kills=4, seed=1)
    assert sum(hit.values()) >= 4
