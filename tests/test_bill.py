"""``motive plan --compare``: what a run was expected to take, beside what it took. ``tests/assets/test_plan.py`` has the whole command."""

import pytest

from motive_pipeline.attribution.stage import publish_gradients
from motive_pipeline.bill import FILE, compared, comparison_lines, record_forecast
from motive_pipeline.errors import MotiveError
from tests.gradient_fixtures import workspace

GRADIENTS, RANKING = "projected_gradients/motive", "voted_ranking/motive"


def test_a_run_is_compared_with_what_it_was_expected_to_take(folder):
    ws = workspace(folder)
    with pytest.raises(MotiveError, match=r"there is no forecast in .*forecast.json yet: `motive run`"):
        compared(ws)
    record_forecast(ws, [GRADIENTS, RANKING])
    publish_gradients(ws, variant="motive", role="clip")
    first = {each.asset: each for each in compared(ws)[1]}
    assert first[GRADIENTS].expected.rows == first[GRADIENTS].rows == 3
    assert first[GRADIENTS].expected.seconds is None
    assert first[GRADIENTS].seconds > 0
    assert first[RANKING].seconds is None, "it did not run"
    assert "nothing was expected in seconds" in list(comparison_lines(*compared(ws)))[-1]

    again = workspace(folder, gradient={"timestep": 400})
    record_forecast(again, [GRADIENTS])
    publish_gradients(again, variant="motive", role="clip")
    at, (found,) = compared(again)
    assert found.expected.seconds == pytest.approx(first[GRADIENTS].seconds)
    assert found.expected.low_s == pytest.approx(0.8 * first[GRADIENTS].seconds)
    assert found.seconds != first[GRADIENTS].seconds, "of this run alone"
    lines = list(comparison_lines(at, [found]))
    assert lines[0] == f"the run of {at}"
    change = found.seconds / found.expected.seconds - 1
    assert lines[-1].startswith("1 assets with a forecast: ")
    assert lines[-1].endswith(f"{found.seconds:.1f} s taken ({change:+.0%})")


def test_a_damaged_forecast_is_named(folder):
    ws = workspace(folder)
    record_forecast(ws, [GRADIENTS])
    file = ws.state / FILE
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(MotiveError, match=r"forecast.json is cut or altered.*The next `motive run` that has work"):
        compared(ws)
