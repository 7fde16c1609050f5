"""The drop of the loss by timestep: rows of the table ``audit`` that the arm's scores publish."""

import math

import numpy as np
import pandas as pd
import pytest

from motive_pipeline.evaluation.loss_drop import loss_drop_rows


def made_up(num_queries: int = 4, num_trainings: int = 2, metric: str = "held_out_loss_drop") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"training": training, "query_id": f"q{query}", "draw": draw, "timestep": 250.0 + 500 * draw, "metric": metric}
        for training in range(num_trainings)
        for query in range(num_queries)
        for draw in range(2)
    ]
    table = pd.DataFrame(rows)
    return table.assign(drop_percent=rng.normal(2, 1, len(table)), plain_drop_percent=rng.normal(1, 1, len(table)))


def test_each_loss_has_a_row_for_each_timestep_and_their_mean_is_that_of_all():
    """Oracle: the mean over the lines of the table with that timestep."""
    causal = made_up()
    rows = {row.parameter: row for row in loss_drop_rows("motive", causal, num_samples=200)}
    assert list(rows) == ["masked", "masked at 250", "masked at 750", "plain", "plain at 250", "plain at 750"]
    for loss, column in (("masked", "drop_percent"), ("plain", "plain_drop_percent")):
        for timestep in (250, 750):
            found = [line[column] for line in causal.to_dict("records") if line["timestep"] == timestep]
            assert rows[f"{loss} at {timestep}"].value == pytest.approx(sum(found) / len(found))
        singles = [rows[f"{loss} at {timestep}"].value for timestep in (250, 750)]
        assert rows[loss].value == pytest.approx(np.mean(singles))
        assert rows[loss].ci_low < rows[loss].value < rows[loss].ci_high
    assert {(row.check, row.variant, row.against, row.num_units, row.unit) for row in rows.values()} == {
        ("loss_drop", "motive", "base", 4, "queries")
    }


def test_two_queries_have_no_interval_and_in_sample_is_said():
    rows = list(loss_drop_rows("full", made_up(2, 1, "in_sample_loss_drop"), num_samples=200))
    assert all(math.isnan(row.ci_low) and not math.isnan(row.value) for row in rows)
    assert all(row.verdict.startswith("in-sample") for row in rows)


def test_the_base_model_has_no_rows():
    assert not list(loss_drop_rows("base", made_up(), num_samples=200))


def test_the_rows_stand_in_the_table_audit_and_agree_with_the_scores(evaluated):
    """The audit itself reads no trained arm: the arms' scores publish these rows."""
    found = evaluated.scores.query("SELECT variant, parameter, value FROM audit WHERE \"check\" = 'loss_drop'").df()
    arms = [arm for arm in evaluated.config.arms if arm != "base"]
    assert sorted(set(found["variant"])) == sorted(arms)
    assert len(found) == len(arms) * 2 * (1 + evaluated.config.evaluate.held_out_draws)
    scores = evaluated.scores.query("SELECT arm, value FROM eval_scores WHERE metric = 'held_out_loss_drop' AND seed IS NULL").df()
    known = dict(zip(scores["arm"], scores["value"], strict=True))
    masked = found[found["parameter"] == "masked"]
    assert dict(zip(masked["variant"], masked["value"], strict=True)) == pytest.approx({arm: known[arm] for arm in arms})
    assert not any(asset.startswith(("eval_scores", "finetuned")) for asset in evaluated.graph.asset("attribution_audit").reads)
    assert evaluated.published("eval_scores/base").table("loss_drop").empty
