"""The drop of the loss by timestep in the report: the numbers are those of the arms' scores, and the plot has a panel for each trained arm."""

import functools
import re

import pytest

from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.report import plots
from motive_pipeline.report.loss_drop_plot import loss_drop_figure
from motive_pipeline.report.loss_drop_section import ALL, load_loss_drop
from tests.eval_fixtures import copied, republish


def test_every_number_is_the_mean_over_the_lines_of_the_causal_check(evaluated):
    """Oracle: the mean of the table ``causal``, line by line."""
    section = load_loss_drop(evaluated)
    arms = [arm for arm in evaluated.config.arms if arm != "base"]
    numbers = {(number.table, number.row, number.column): number.value for number in section.numbers}
    assert len(numbers) == len(arms) * 2 * (1 + evaluated.config.evaluate.held_out_draws)
    for arm in arms:
        lines = evaluated.published(f"eval_scores/{arm}").table("causal").to_dict("records")
        for loss, column in (("masked", "drop_percent"), ("plain", "plain_drop_percent")):
            for row in (ALL, "250", "750"):
                found = [line[column] for line in lines if row in (ALL, f"{line['timestep']:g}")]
                assert numbers[f"loss_drop_{loss}", row, arm] == pytest.approx(sum(found) / len(found))


def test_the_tables_show_the_numbers_for_all_timesteps_first(evaluated):
    section = load_loss_drop(evaluated)
    assert [table.key for table in section.tables] == ["loss_drop_masked", "loss_drop_plain"]
    for table in section.tables:
        assert [row[0] for row in table.rows] == ["all", "250", "750"]
        assert len(table.columns) == len(table.rows[0]) == len(evaluated.config.arms)
        shown = [number.shown for number in section.numbers if number.table == table.key]
        assert sorted(cell for row in table.rows for cell in row[1:]) == sorted(shown)
        assert "read from eval_scores" in table.origin


def test_an_arm_measured_at_other_timesteps_has_gaps_and_no_wrong_number(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    rows = ws.published("eval_scores/motive").table("loss_drop")
    republish(ws, "eval_scores/motive", loss_drop=rows.assign(parameter=rows["parameter"].str.replace("750", "500")))
    table = load_loss_drop(ws).tables[0]
    by_timestep = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(by_timestep) == ["all", "250", "500", "750"]
    assert by_timestep["750"]["MOTIVE (%)"] == "–"
    assert {cell for name, cell in by_timestep["500"].items() if name not in ("timestep", "MOTIVE (%)")} == {"–"}


@pytest.mark.parametrize("num_timesteps", [1, 8])
def test_the_plot_has_a_panel_for_each_arm(evaluated, num_timesteps):
    section = load_loss_drop(evaluated)
    wide = Estimate(value=1.0, low=0.5, high=1.5, num_trainings=1, num_prompts=3)
    drops = {arm: {loss: {100.0 * place: wide for place in range(num_timesteps)} for loss in by} for arm, by in section.drops.items()}
    svg = plots.svg(
        functools.partial(loss_drop_figure, found=type(section)(drops=drops, tables=[], numbers=[]), lead="motive"), name="drop"
    )
    found = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"full pool", "random", "most motion", "unmasked gradient", "MOTIVE", "timestep", "drop, %"} <= set(found)
    assert "var(--accent)" in svg
    real = plots.svg(functools.partial(loss_drop_figure, found=section, lead="motive"), name="drop")
    assert "nan" not in real.lower(), "two queries have no interval"
