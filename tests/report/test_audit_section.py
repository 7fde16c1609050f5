"""The report's section on the audit says what the table has, and a figure without a number says why."""

import functools
import math

import pandas as pd

from motive_pipeline.report import plots
from motive_pipeline.report.audit_plot import scores_figure
from motive_pipeline.report.audit_section import CHECKS, KINDS, load_audit_section


def test_every_check_of_the_table_has_its_own_table(evaluated):
    audit = evaluated.published("attribution_audit").table("audit")
    section = load_audit_section(evaluated)
    assert {f"audit_{check}" for check in audit["check"]} - {"audit_verdict"} == {table.key for table in section.tables}
    assert set(audit["check"]) - {"verdict"} <= set(CHECKS), "a check that the report does not know is not shown"
    assert section.headline == evaluated.published("attribution_audit").facts["verdict"]
    assert set(section.sentences) <= set(KINDS.values())
    assert section.scores.empty


def test_numbers_are_those_of_the_table_and_none_is_made_up(evaluated):
    audit = evaluated.published("attribution_audit").table("audit")
    section = load_audit_section(evaluated)
    shown = audit[(audit["check"] != "verdict") & (audit["query_id"] == "") & audit["value"].notna()]
    assert sorted(number.value for number in section.numbers) == sorted(shown["value"])
    for table in section.tables:
        for *_, value, _, says in table.rows:
            assert not math.isnan(float(value.split(" ")[0].replace("−", "-"))) if value != "–" else says


def test_the_plot_has_a_row_for_each_estimator():
    scores = pd.DataFrame({"variant": ["motive", "random"], "value": [0.4, 0.0], "ci_low": [0.2, -0.2], "ci_high": [0.6, 0.2]})
    svg = plots.svg(functools.partial(scores_figure, scores=scores, variants=("motive",)), name="audit")
    assert "MOTIVE" in svg
    assert "random" in svg
    assert "var(--accent)" in svg
    none = scores.assign(ci_low=math.nan, ci_high=math.nan)
    assert "MOTIVE" in plots.svg(functools.partial(scores_figure, scores=none, variants=("motive",)), name="audit")
