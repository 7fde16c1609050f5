"""Dagster's automation conditions: when an asset recomputes because settings, code or an input's content changed.

Belongs here: conditions. Does not belong here: new files and weights, which sensors and the schedule take in (``sensors.py``,
``schedules.py``), so that the two never race.
"""

import dagster as dg

from motive_pipeline.graph import SOURCES


def recompute_what_changed() -> dg.AutomationCondition:
    """Recompute an asset once when its own settings or code changed, or the content of an input did, and its inputs are at rest.

    Unlike ``eager()``, inputs that were materialized again with the same content ask for nothing.
    """
    condition = dg.AutomationCondition
    inputs_changed = condition.any_deps_match(condition.data_version_changed()).ignore(dg.AssetSelection.keys(*SOURCES))
    changed: dg.AutomationCondition = condition.newly_missing() | condition.code_version_changed() | inputs_changed
    return (
        changed.since_last_handled()  # pyright: ignore[reportAttributeAccessIssue]
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("recompute what changed")
