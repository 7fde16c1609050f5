"""The report's section on the audit says what the table has, and a figure without a number says why."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from motive_pipeline.evaluation.audit.table import AuditRow, audit_frame
from motive_pipeline.report import plots
from motive_pipeline.report.audit_plot import audit_figures
from motive_pipeline.report.audit_section import CHECKS, KINDS, load_audit_section

VARIANTS = ("motive", "no_mask")


def test_every_check_of_the_table_has_its_own_table(evaluated):
    audit = evaluated.published("attribution_audit").table("audit")
    section = load_audit_section(evaluated)
    assert {f"audit_{check}" for check in audit["check"]} - {"audit_verdict"} == {table.key for table in section.tables}
    assert set(audit["check"]) - {"verdict"} <= set(CHECKS), "a check that the report does not know is not shown"
    assert section.headline == evaluated.published("attribution_audit").facts["verdict"]
    assert set(section.sentences) <= set(KINDS.values())


def test_numbers_are_those_of_the_table_and_none_is_made_up(evaluated):
    audit = evaluated.published("attribution_audit").table("audit")
    section = load_audit_section(evaluated)
    shown = audit[(audit["check"] != "verdict") & (audit["query_id"] == "") & audit["value"].notna()]
    assert sorted(number.value for number in section.numbers) == sorted(shown["value"])
    for table in section.tables:
        for *_, value, _, says in table.rows:
            assert not math.isnan(float(value.split(" ")[0].replace("−", "-"))) if value != "–" else says


def drawn(rows: list[AuditRow]) -> dict[str, str]:
    """The figures by name, as SVG."""
    return {each.name: plots.svg(each.draw, name=each.name) for each in audit_figures(audit_frame(rows), VARIANTS)}


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def figure(check: str, value: float = 0.4, **settings) -> AuditRow:
    interval = {"ci_low": value - 0.1, "ci_high": value + 0.1, "std_error": 0.05} | settings
    return AuditRow(check=check, value=value, **({"variant": "motive"} | interval))


def test_what_training_shows_stands_side_by_side():
    rows = [
        *(figure("lds", variant=name, parameter="mean over queries") for name in (*VARIANTS, "random")),
        figure("lds_difference", against="random"),
        figure("reliability", parameter="ceiling of a score, mean of 2 trainings", value=0.7),
        figure("leave_group_out", variant="random", against="full pool", parameter="without 3 at random"),
        figure("leave_group_out", against="full pool", parameter="without the bottom 3"),
        figure("leave_group_out", against="random", parameter="without the top 3"),
        figure("leave_group_out", against="full pool", parameter="without the top 3", query_id="abc"),
    ]
    found = texts(drawn(rows)["training"])
    for said in ("MOTIVE", "random", "MOTIVE minus random", "MOTIVE bottom", "MOTIVE top minus random", "without a group of clips"):
        assert said in found
    assert "MOTIVE top" not in found, "a row of a single query is in the table alone"
    assert "var(--accent)" in drawn(rows)["training"]
    without = [figure(row.check, variant=row.variant, parameter=row.parameter, ci_low=math.nan, ci_high=math.nan) for row in rows[:3]]
    assert "MOTIVE" in texts(drawn(without)["training"])


def test_the_real_audit_of_a_small_project_has_its_plots(evaluated):
    audit = evaluated.published("attribution_audit").table("audit")
    figures = audit_figures(audit, evaluated.config.variants)
    assert [each.name for each in figures] == ["estimate", "choice"]
    for each in figures:
        svg = plots.svg(each.draw, name=each.name)
        assert "nan" not in svg.lower()
        assert each.label.endswith("the tables below have the same numbers")
    estimate, choice = (texts(plots.svg(each.draw, name=each.name)) for each in figures)
    assert {"agreement with all entries", "error of the cosines", "one timestep and the mean", "two means of so many draws"} <= set(
        estimate
    )
    assert {"rank correlation with", "overlap of the best 10 % with", "share of the choice that stays", "flow similarity"} <= set(choice)


def test_names_of_categories_are_text_and_no_formula():
    names = ["$x^{$", "<b>run</b>", "步行", "a person who walks along a long street"]
    pairs = [(first, second) for place, first in enumerate(names) for second in names[:place]]
    rows = [
        figure("query_overlap", value, parameter=first, against=second)
        for value, (first, second) in zip(np.linspace(0, 1, 6), pairs, strict=True)
    ]
    svg = drawn(rows)["categories"]
    found = texts(svg)
    assert {"$x^{$", "&lt;b&gt;run&lt;/b&gt;", "步行", "a person who walks …", "0 %", "100 %", "MOTIVE"} <= set(found)
    assert "<b>" not in svg
    assert "no_mask" not in svg


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [figure("timestep", math.nan, parameter="500")],
        [figure("leakage", 0.0, parameter="queries in the pool")],
        [figure("query_overlap", parameter="a", against="b")],
    ],
)
def test_without_several_numbers_there_is_no_plot(rows):
    assert drawn(rows) == {}


def test_a_plot_of_a_check_does_not_need_the_others():
    assert texts(drawn([figure("draws", parameter="1"), figure("draws", 0.9, parameter="16", against="Spearman-Brown")])["estimate"])
    only = pd.concat(
        [
            audit_frame([figure("queries", parameter="chosen without one query")]),
            audit_frame([figure("queries", parameter="chosen without this query", query_id="q")]),
        ]
    )
    assert [each.name for each in audit_figures(only, VARIANTS)] == ["choice"]
