"""The report's tables of the drop of the loss by timestep, for each arm, masked and plain. It reads the rows that the arms' scores published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.evaluation.loss_drop import LOSSES
from motive_pipeline.graph import BASE
from motive_pipeline.report.tables import Number, Table, arm_name, format_number, with_origin
from motive_pipeline.storage.workspace import Workspace

ALL = "all"
"""The row over all timesteps."""

_TITLES = {
    "masked": "The drop of the motion-weighted loss by timestep",
    "plain": "The drop of the plain loss by timestep",
}
_CAPTION = (
    "In % of a query's base loss averaged over the timesteps, so that the mean over the timesteps is the row “all”. Timesteps near 0 have little noise, "
    "near 1000 much. Below three queries there is no interval."
)


@dataclass(frozen=True, kw_only=True)
class LossDrop:
    """For each arm and loss (``masked``, ``plain``) the drop at each timestep; tables and numbers of the same, with the mean over all timesteps."""

    drops: Mapping[str, Mapping[str, Mapping[float, Estimate]]]
    tables: Sequence[Table]
    numbers: Sequence[Number]


def load_loss_drop(ws: Workspace) -> LossDrop:
    """What the published scores of the trained arms say.

    Raises:
        NotPublished: an arm has no scores.
    """
    found = {arm: ws.published(f"eval_scores/{arm}").table("loss_drop") for arm in ws.config.arms if arm != BASE}
    drops = {arm: {loss: _by_timestep(rows, loss) for loss in LOSSES} for arm, rows in found.items()}
    pairs = [_table(found, loss) for loss in LOSSES]
    return LossDrop(
        drops=drops,
        tables=[with_origin(table, numbers) for table, numbers in pairs if table.rows],
        numbers=[number for _, numbers in pairs for number in numbers],
    )


def _by_timestep(rows: pd.DataFrame, loss: str) -> dict[float, Estimate]:
    start = f"{loss} at "
    return {
        float(row["parameter"].removeprefix(start)): Estimate(
            value=row["value"], low=row["ci_low"], high=row["ci_high"], num_trainings=0, num_prompts=row["num_units"]
        )
        for row in rows.to_dict("records")
        if row["parameter"].startswith(start)
    }


def _table(found: Mapping[str, pd.DataFrame], loss: str) -> tuple[Table, list[Number]]:
    """A row for all timesteps, then one for each; a column for each arm."""
    cells = {(_place(row["parameter"], loss), arm): _number(row, loss, arm) for arm, rows in found.items() for row in _of_loss(rows, loss)}
    places = sorted({place for place, _ in cells}, key=lambda place: -1.0 if place == ALL else float(place))
    table = Table(
        key=f"loss_drop_{loss}",
        title=_TITLES[loss],
        columns=["timestep", *(f"{arm_name(arm)} (%)" for arm in found)],
        rows=[[place, *(cells[place, arm].shown if (place, arm) in cells else "–" for arm in found)] for place in places],
        caption=_CAPTION,
    )
    return table, list(cells.values())


def _of_loss(rows: pd.DataFrame, loss: str) -> list[dict]:
    return [row for row in rows.to_dict("records") if row["parameter"].partition(" at ")[0] == loss]


def _place(parameter: str, loss: str) -> str:
    return ALL if parameter == loss else parameter.removeprefix(f"{loss} at ")


def _number(row: Mapping, loss: str, arm: str) -> Number:
    shown = format_number(row["value"], 2)
    if row["ci_low"] == row["ci_low"]:
        shown += f" [{format_number(row['ci_low'], 2)}, {format_number(row['ci_high'], 2)}]"
    return Number(
        table=f"loss_drop_{loss}", row=_place(row["parameter"], loss), column=arm, value=row["value"], ci_low=row["ci_low"],
        ci_high=row["ci_high"], num=int(row["num_units"]), unit="%", shown=shown, source=f"eval_scores/{arm}",
    )  # fmt: skip
