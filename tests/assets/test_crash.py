"""Crash safety of the whole graph, the short version; ``make crash`` runs the long one."""

import pytest

from tests.crash import torture

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)  # whole runs of the graph, one after the other: on a busy machine many minutes
def test_killed_runs_end_where_an_undisturbed_run_ends(tmp_path):
    hit = torture(tmp_path, kills=4, seed=1)
    assert sum(hit.values()) >= 4
