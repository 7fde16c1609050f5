"""How the verdict writes numbers and sentences, and the kinds of its sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from motive_pipeline.evaluation.audit.table import AuditRow

SUPPORTED, UNSUPPORTED, CHANGE, HEADLINE = "supported", "not supported", "to change", "headline"


def number(value: float) -> str:
    """Two decimals, with a typographic minus sign."""
    return f"{value:.2f}".replace("-", "−")


def error(row: AuditRow) -> str:
    """`` ± 0.05``, or nothing without a standard error."""
    return "" if math.isnan(row.std_error) else f" ± {row.std_error:.2f}"


def interval(row: AuditRow) -> str:
    """`` (0.10 to 0.30)``, or nothing without an interval."""
    return "" if math.isnan(row.ci_low) else f" ({number(row.ci_low)} to {number(row.ci_high)})"


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
