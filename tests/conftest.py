"""Fixtures that several rooms share."""

import os
import secrets
import shutil
import time
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}  # of this session's clusters; the user's own token is left alone
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores must not wait for each other in spin locks

from motive_pipeline.config import Config, parse_config
from motive_pipeline.storage.workspace import Workspace
from tests.graph_project import Project

TOGETHER = {
    **dict.fromkeys(("test_graph", "test_ui", "test_read_only"), "project"),
    **dict.fromkeys(
        (
            "test_report",
            "test_causal",
            "test_audit_stage",
            "test_audit_section",
            "test_published_checks",
            "test_provenance",
            "test_controls",
            "test_eval_stage",
            "test_garbage",
            "test_explain",
            "test_ask",
            "test_vbench",
            "test_api",
            "test_golden",
            "test_harmful_list",
            "test_sql_page",
            "test_chosen",
            "test_held_out",
            "test_loss_drop",
            "test_loss_drop_section",
            "test_influence_maps",
            "test_explorer",
            "test_explorer_page",
            "test_metadata",
        ),
        "evaluated",
    ),
    **dict.fromkeys(("test_gradient_stage", "test_second_moments", "test_asked_video", "test_bill"), "prepared_project"),
    **dict.fromkeys(("test_shards", "test_merge", "test_slurm"), "sharded_project"),
    **dict.fromkeys(("test_ray", "test_ray_cluster", "test_ray_jobs"), "ray"),
}
"""Files that share a costly session fixture, and its name; any other file is a group of its own. Those of Ray share nothing, but of two clusters on one
machine Ray joins the newest, so they must not run at the same time."""

LONGEST_FIRST = ("test_staleness", "project", "test_daemon", "test_plan", "test_bad_input", "ray", "evaluated", "test_automation", "test_crash",
                 "test_full_disk", "test_open_shell", "test_two_runs", "test_undone", "test_finetune", "prepared_project")  # fmt: skip
"""What takes long comes first, so that two processes end at nearly the same time."""


WITHOUT_COVERAGE = ("test_staleness", "project", "test_daemon", "test_plan", "test_bad_input", "test_automation", "test_crash",
                    "test_full_disk", "test_open_shell", "test_two_runs", "test_undone", "test_real_clips", "test_wheel")  # fmt: skip
"""Groups that run whole graphs, mostly in processes of their own. Tracing would make them a third slower (Python 3.11 traces every line of every
library), and the lines of the library that they run are run by smaller tests, too."""


def _group(nodeid: str) -> str:
    stem = Path(nodeid.partition("::")[0]).stem
    return TOGETHER.get(stem, stem)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Groups go to a process whole, so that what their tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a group one after the other, the longest groups first. The others start at a group that differs with ``SLOW_TESTS_TURN``, a number."""
    groups = sorted({_group(item.nodeid) for item in items} - set(LONGEST_FIRST))
    start = int(os.environ.get("SLOW_TESTS_TURN", "0")) % max(1, len(groups))
    places = {group: place for place, group in enumerate([*LONGEST_FIRST, *groups[start:], *groups[:start]])}
    items.sort(key=lambda item: places[_group(item.nodeid)])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Starts no slow test after ``SLOW_TESTS_UNTIL`` (seconds since 1970), so that a slow machine's CI ends and says what it has found. With the number of
    commits as turn (``.ci/run``) the next change's CI begins with others."""
    until = os.environ.get("SLOW_TESTS_UNTIL")
    if until and item.get_closest_marker("slow") and time.time() > float(until):
        pytest.skip("no time left on this machine (SLOW_TESTS_UNTIL)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Stops measuring the coverage (``make coverage``) while a test of :data:`WITHOUT_COVERAGE` and its fixtures run."""
    controller = getattr(item.config.pluginmanager.get_plugin("_cov"), "cov_controller", None)
    if controller is None or _group(item.nodeid) not in WITHOUT_COVERAGE:
        return (yield)
    controller.pause()
    try:
        return (yield)
    finally:
        controller.resume()


@pytest.fixture(autouse=True)
def _no_config_left_in_the_environment():
    """``motive --config`` names the config for child processes in ``MOTIVE_CONFIG``. A test must not leave it to the next one."""
    before = os.environ.pop("MOTIVE_CONFIG", None)
    yield
    os.environ.pop("MOTIVE_CONFIG", None)
    if before is not None:
        os.environ["MOTIVE_CONFIG"] = before


SMALL_DEMO = """
clips: {source: demo, num_frames: 17, width: 64, height: 64, demo: {num_clips: 18}}
queries: {source: demo, demo: {num_queries: 2, num_held_out: 2}}
model: {path: tiny, dtype: float32, max_prompt_tokens: 32}
"""


@pytest.fixture
def make_config(tmp_path: Path):
    """Parse YAML text as ``motive.yaml`` of a fresh folder."""

    def make(text: str = SMALL_DEMO) -> Config:
        return parse_config(text, tmp_path / "motive.yaml")

    return make


@pytest.fixture
def workspace(make_config) -> Workspace:
    """A workspace over generated clips and the tiny model, with nothing published yet."""
    return Workspace(make_config())


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """The three clips and three queries of :func:`tests.clip_fixtures.write_project`, with both catalogs published."""
    from tests.clip_fixtures import catalogued, project, write_project

    write_project(tmp_path)
    return catalogued(project(tmp_path))


@pytest.fixture
def strange_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Workers whose decoder dies, hangs or has no memory by the name of the file; see :mod:`tests.strange_decoders`."""
    from motive_pipeline.video.worker_pool import decode_pool
    from tests.strange_decoders import start_strange_workers

    start_strange_workers(tmp_path / "site", monkeypatch)
    decode_pool.cache_clear()
    yield
    decode_pool.cache_clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in diffusers' layout, smaller than the embedded one."""
    from tests.tiny_wan import save_tiny_wan

    return save_tiny_wan(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def prepared_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project on disk, run by the real stages up to latents and masks. Not to be changed."""
    from tests.gradient_fixtures import write_prepared_project

    return write_prepared_project(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def folder(prepared_project: Path, tmp_path: Path) -> Path:
    """A copy of ``prepared_project`` of the test's own."""
    return shutil.copytree(prepared_project, tmp_path / "project")


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A small project run up to ``eval_scores``, by the real stages. Tests that change it work on a copy."""
    from motive_pipeline.evaluation.stage import publish_eval_scores
    from tests.eval_fixtures import open_workspace, publish_upstream

    ws = open_workspace(tmp_path_factory.mktemp("evaluated"), tiny_model)
    publish_upstream(ws)
    for arm in ws.config.arms:
        publish_eval_scores(ws, arm)
    return ws


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose graph has run once, whole. Tests that change its settings set them back."""
    project = Project(tmp_path_factory.mktemp("graph"))
    project.first = project.run("--summary")
    return project


@pytest.fixture(scope="module")
def browser():
    """The installed Chromium. Without one the tests are skipped, but not in CI."""
    from tests.browser import MISSING, chromium, open_browser

    if chromium() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    with open_browser() as browser:
        yield browser


@pytest.fixture
def as_the_pipeline_sets_torch():
    """Deterministic kernels are preferred, as :func:`~motive_pipeline.models.load.load_model` leaves it."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
