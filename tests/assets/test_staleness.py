"""What recomputes after each kind of change, on a real Dagster instance, against the table in docs/staleness.md.

``python -m tests.assets.test_staleness`` prints the table as it comes out now, for a person to compare with the design.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import assets.run_stale as running
from assets.names import asset_name
from assets.run_stale import Report, run_stale
from assets.staleness import stale_assets
from motive_pipeline.graph import stages
from motive_pipeline.report import plots
from tests.dagster_internals import WorkspaceProcessContext
from tests.staleness_project import CHANGES, StalenessProject
from tests.ui_status import unsynced, web_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]  # the first test waits for all runs of the table: minutes, on a busy machine many
TABLE = Path(__file__).parents[2] / "docs" / "staleness.md"
WITHOUT_ROWS = (
    "eligible_pool",
    "influence_matrix",
    "voted_ranking",
    "curated_subset",
    "rejected_clips",
    "preference_bundle",
    "preference_study",
    "attribution_audit",
    "eval_report",
)
"""Assets that are made as a whole, in little time: their rows say nothing about what was computed again."""


@dataclass(frozen=True)
class Observed:
    """One ``motive run``: its report, and before each of its rounds the stale assets as ``motive`` and as the UI see them."""

    report: Report
    motive: list[set[str]]
    ui: list[set[str]]

    @property
    def ran(self) -> set[str]:
        return {name for names in self.motive for name in names}

    def row(self) -> tuple[str, str, str]:
        """The cells of the table: stale at once, stale afterwards, rows computed."""
        at_once = self.motive[0]
        return self._listed(at_once), self._listed(self.ran - at_once), self._rows()

    def _listed(self, names: set[str]) -> str:
        """Assets in the order of the graph, arms of one kind joined; ``=`` marks what came out as it was."""
        marks = {name: "=" if self.report.assets[name].status == "unchanged" else "" for name in self.report.assets if name in names}
        return _joined(marks, every={name for name in self.report.assets})

    def _rows(self) -> str:
        counts = {name: run.rows_computed for name, run in self.report.assets.items() if name.split("/")[0] not in WITHOUT_ROWS}
        return _joined({name: f" {count}" for name, count in counts.items() if count}, every=set(counts), each=" each")


ORDER = (
    "clip_catalog", "query_catalog", "latents", "query_latents", "motion_masks", "query_masks", "projected_gradients", "query_gradients",
    "influence_matrix", "eligible_pool", "influence_maps", "voted_ranking", "curated_subset", "finetuned_checkpoint", "generated_videos", "eval_scores",
    "preference_bundle", "preference_study", "rejected_clips", "attribution_audit", "eval_report",
)  # fmt: skip


def _joined(said: dict[str, str], every: set[str], each: str = "") -> str:
    """``asset`` + what is said of it; one word for all arms (or variants) of an asset of which the same is said."""
    groups: dict[tuple[int, str], set[str]] = {}
    for name, words in said.items():
        groups.setdefault((ORDER.index(name.split("/")[0]), words), set()).add(name)
    listed = []
    for (position, words), names in sorted(groups.items()):
        asset = ORDER[position]
        arms = sorted(name.partition("/")[2] for name in names)
        if arms == [""] or names == {name for name in every if name.split("/")[0] == asset}:
            listed.append(f"{asset}{words}{each if arms != [''] else ''}")
        elif len(arms) == 1:
            listed.append(f"{asset}/{arms[0]}{words}")
        else:
            listed.append(f"{asset}/{{{', '.join(arms)}}}{words}{each}")
    return ", ".join(listed) or "none"


class Watch:
    """Stands in for ``stale_assets`` during a run: gives its answer, and notes it beside that of a web server with the same settings."""

    def __init__(self, servers: ExitStack) -> None:
        self.motive: list[set[str]] = []
        self.ui: list[set[str]] = []
        self._servers = servers
        self._server: WorkspaceProcessContext | None = None

    def __call__(self, graph, instance, workspace):
        if self._server is None:
            self._server = self._servers.enter_context(web_server(workspace.config, instance))
        stale = stale_assets(graph, instance, workspace)
        self.motive.append({asset_name(key) for key in stale})
        self.ui.append(unsynced(self._server))
        return stale


def run_and_watch(project: StalenessProject) -> Observed:
    """``motive run``, looked at before each of its rounds."""
    with ExitStack() as servers, pytest.MonkeyPatch.context() as patch:
        watch = Watch(servers)
        patch.setattr(running, "stale_assets", watch)
        patch.setattr(plots, "svg", lambda draw, name: "<svg></svg>")  # the figures show what the tables say, and take a third of a run
        report = run_stale(project.config)
    assert report.ok, {name: run.error for name, run in report.assets.items() if run.error}
    return Observed(report, watch.motive, watch.ui)


def run_all(folder: Path) -> Iterator[tuple[str, Observed]]:
    """The first run, then every change of the table."""
    project = StalenessProject(folder)
    yield "first run", run_and_watch(project)
    before = dict(stages.STAGES)
    try:
        for change, apply in CHANGES.items():
            apply(project)
            yield change, run_and_watch(project)
    finally:
        stages.STAGES.update(before)


def table() -> dict[str, tuple[str, ...]]:
    """change -> the other cells, as docs/staleness.md prints them."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    return {change: tuple(cells) for change, *cells in rows if len(cells) == 3}


@pytest.fixture(scope="module")
def observed(tmp_path_factory) -> dict[str, Observed]:
    """What every change led to."""
    return dict(run_all(tmp_path_factory.mktemp("staleness")))


def test_the_table_has_a_row_for_every_change():
    assert [change for change in table() if change in CHANGES] == list(CHANGES)


def test_the_first_run_computes_everything(observed):
    assert {run.status for run in observed["first run"].report.assets.values()} == {"computed"}


@pytest.mark.parametrize("change", CHANGES)
def test_exactly_what_changed_recomputes(observed, change):
    assert observed[change].row() == table()[change]


@pytest.mark.parametrize("change", CHANGES)
def test_the_ui_names_the_same_assets(observed, change):
    seen = observed[change]
    assert seen.ui == seen.motive, "before each round, `Materialize unsynced` must offer what `motive run` runs"
    assert seen.ui[-1] == set()
    ran = {name for name, run in seen.report.assets.items() if run.seconds}
    assert seen.ran == ran


def test_a_setting_that_has_gone_back_computes_no_row(observed):
    assert sum(run.rows_computed for run in observed["a setting changed and changed back"].report.assets.values()) == 0


def _print_table() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for change, seen in run_all(Path(folder)):
            print(f"| {change} | " + " | ".join(seen.row()) + " |", flush=True)
            notes = f"{time.monotonic() - started:.0f} s, cpu {time.process_time():.0f} s, rounds {len(seen.ui)}"
            print(f"    {notes}{'' if seen.ui == seen.motive else ' UI DIFFERS: ' + str((seen.ui, seen.motive))}", flush=True)


if __name__ == "__main__":
    _print_table()
