"""When assets recompute without a hand on them."""

import dagster as dg


def recompute_what_changed() -> dg.AutomationCondition:
    """Recompute an asset once when its own settings or code changed, or the content of an input did, and its inputs are at rest.

    Unlike ``eager()``, inputs that were materialized again with the same content ask for nothing.
    """
    changed: dg.AutomationCondition = (
        dg.AutomationCondition.newly_missing()
        | dg.AutomationCondition.code_version_changed()
        | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    )
    return (
        changed.since_last_handled()  # pyright: ignore[reportAttributeAccessIssue]
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("recompute what changed")
