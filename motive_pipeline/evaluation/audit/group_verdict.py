"""What leaving out groups of clips showed, in sentences of the audit's verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from motive_pipeline.evaluation.audit.estimators import RANDOM
from motive_pipeline.evaluation.audit.leave_group_out import AS_EXPECTED, CHECK, IN_SAMPLE, OPPOSITE, UNCLEAR
from motive_pipeline.evaluation.audit.table import AuditRow
from motive_pipeline.evaluation.audit.wording import SUPPORTED, UNSUPPORTED, interval, number, sentence


def group_headline(rows: Sequence[AuditRow], variant: str) -> str:
    """What leaving out the top group of ``variant`` showed; nothing where it was not asked for, or too little was trained."""
    top = _top_group(rows, variant)
    if top is None:
        return ""
    group = f"the clips that {variant} ranks first"
    if top.verdict == AS_EXPECTED:
        return f"T{group[1:]} matter more to training than random ones; whether influence predicts training in general is not tested"
    if top.verdict == OPPOSITE:
        return f"Training needs {group} less than random ones"
    if top.verdict == UNCLEAR:
        return f"No evidence that {group} matter more to training than random ones"
    return f"No conclusion on whether {group} matter more to training than random ones"


def _top_group(rows: Sequence[AuditRow], variant: str) -> AuditRow | None:
    wanted = (CHECK, variant, RANDOM)
    return next((row for row in rows if (row.check, row.variant, row.against) == wanted and not math.isnan(row.value)), None)


def _bottom_group(rows: Sequence[AuditRow], variant: str) -> AuditRow | None:
    own = (row for row in rows if row.check == CHECK and row.variant == variant and not row.query_id and not math.isnan(row.value))
    return next((row for row in own if row.parameter.startswith("without the bottom")), None)


def _group_sentence(row: AuditRow) -> str:
    """What training without the top group (against random ones) or the bottom group (against the full pool) showed."""
    size = row.parameter.rpartition(" ")[2]
    changed = f"{number(row.value)}{interval(row)} % of the base model's ({row.verdict})."
    if row.against == RANDOM:
        claim = f"Training needs the {size} clips that {row.variant} ranks first more than {size} random ones"
        return f"{claim}: without them the motion-weighted loss is higher by {changed}"
    return f"The {size} clips of lowest mean influence by {row.variant} do harm: without them the motion-weighted loss changes by {changed}"


def group_sentences(rows: Sequence[AuditRow], variants: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What training without the top and the bottom group of each variant showed."""
    found = [row for row in rows if row.check == CHECK]
    if any(row.verdict.startswith(IN_SAMPLE) for row in found):
        yield (
            UNSUPPORTED,
            "What leaving out groups did is in-sample: the loss is that of the queries that made the rankings, since there are no held-out ones.",
        )
    for said in dict.fromkeys(row.verdict for row in found if math.isnan(row.value)):
        yield UNSUPPORTED, sentence(f"What leaving out groups of clips does: {said}")
    for variant in variants:
        for row in (_top_group(found, variant), _bottom_group(found, variant)):
            if row is not None:
                yield SUPPORTED if row.verdict == AS_EXPECTED else UNSUPPORTED, _group_sentence(row)
