"""What a run was expected to take, noted when it starts, beside what it took (``motive plan --compare``)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.catalog.changes import Content
from motive_pipeline.errors import MotiveError
from motive_pipeline.forecast import CostEstimate, Forecast
from motive_pipeline.graph import Role
from motive_pipeline.storage.sealed import Damaged, read_sealed, write_sealed
from motive_pipeline.storage.workspace import Workspace

FILE = "forecast.json"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One asset of the last run: what was expected, and what it took. None: it was not expected to run, or nothing was measured, or it did not run."""

    asset: str
    expected: CostEstimate | None
    seconds: float | None
    rows: int | None


def record_forecast(ws: Workspace, assets: Collection[str]) -> None:
    """Note, in the state folder, what ``assets`` are expected to take in the run that begins. The catalogs are published."""
    contents: dict[Role, list[Content]] = {role: _contents(ws, role) for role in ("clip", "query")}
    forecast = Forecast(ws, contents)
    expected = {asset: asdict(forecast.estimate(asset)) for asset in sorted(assets)}
    write_sealed(ws.state / FILE, {"run_id": ws.run_id, "at": datetime.now(UTC).isoformat(timespec="seconds"), "assets": expected})


def compared(ws: Workspace) -> tuple[str, list[Compared]]:
    """(when the last run that had work began, its assets in the order of the graph).

    Raises:
        MotiveError: no run has noted a forecast yet.
    """
    file = ws.state / FILE
    try:
        noted = read_sealed(file)
    except FileNotFoundError:
        raise MotiveError(f"there is no forecast in {file} yet: `motive run` and `motive rank` note one when they have work.") from None
    except Damaged as error:
        raise MotiveError(f"{error}. The next `motive run` that has work writes it anew.") from error
    runs = ws.scores.query("SELECT asset, seconds, rows_computed, run_id FROM runs").fetchall() if ws.scores.version() else []
    took = {asset: (seconds, rows) for asset, seconds, rows, run_id in runs if run_id == noted["run_id"]}
    expected = {asset: CostEstimate(**values) for asset, values in noted["assets"].items()}
    names = [key for key in ws.graph.assets if key in took or key in expected]
    return noted["at"], [
        Compared(asset=name, expected=expected.get(name), seconds=took.get(name, (None, None))[0], rows=took.get(name, (None, None))[1])
        for name in names
    ]


def comparison_lines(at: str, assets: list[Compared]) -> Iterator[str]:
    """The comparison as a table for a person, with the sums over what was expected and did run."""
    width = max((len(each.asset) for each in assets), default=5)
    yield f"the run of {at}"
    yield f"{'asset':{width}}  {'rows':>15}  {'expected s':>11} {'between':>17}  {'took s':>9}"
    for each in assets:
        expected = each.expected or CostEstimate(rows=None, seconds=None, disk_mb=None)
        rows = "" if expected.rows is None else f"{expected.rows} -> {'-' if each.rows is None else each.rows}"
        between = "" if expected.low_s is None else f"{expected.low_s:.1f} - {expected.high_s:.1f}"
        yield f"{each.asset:{width}}  {rows:>15}  {_shown(expected.seconds):>11} {between:>17}  {_shown(each.seconds):>9}"
    both = [each for each in assets if each.expected is not None and each.expected.seconds is not None and each.seconds is not None]
    expected_s = sum(each.expected.seconds or 0.0 for each in both if each.expected is not None)
    took_s = sum(each.seconds or 0.0 for each in both)
    if not expected_s:
        yield "nothing was expected in seconds: no run had been measured before it"
        return
    low_s = sum(each.expected.low_s or 0.0 for each in both if each.expected is not None)
    high_s = sum(each.expected.high_s or 0.0 for each in both if each.expected is not None)
    yield (
        f"{len(both)} assets with a forecast: {expected_s:.1f} s expected (between {low_s:.1f} and {high_s:.1f}), {took_s:.1f} s taken "
        f"({took_s / expected_s - 1:+.0%})"
    )


def _contents(ws: Workspace, role: Role) -> list[Content]:
    return [Content(clip_id=clip.clip_id, caption=clip.caption, part=clip.part, names=frozenset()) for clip in catalog_clips(ws, role)]


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
