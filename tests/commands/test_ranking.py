"""``motive rank`` and ``motive run --until``: which assets they bring up to date, what they say it costs, and what they print."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from assets.plan import Planned
from assets.run_stale import Report
from motive_pipeline import cli
from motive_pipeline.attribution.gradient_set import open_gradients
from motive_pipeline.commands.ranking import Goal, cost_line, goal_of, result_lines
from motive_pipeline.commands.running import UNTIL, assets_until
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.export.subset import ExportResult
from motive_pipeline.graph import ARMS, Graph
from motive_pipeline.storage.workspace import Workspace
from tests.clip_fixtures import project as small_workspace
from tests.curation_fixtures import clip_names, publish_clips, publish_table
from tests.graph_project import Project
from tests.staleness_project import StalenessProject

EVERY_ARM = [*ARMS, {"name": "quick", "variant": "quick"}]
VARIANTS = {"quick": {"timestep": 300}, "no_arm": {"timestep": 200}}
TRAINING = (
    "finetuned_checkpoint",
    "generated_videos",
    "eval_scores",
    "preference_bundle",
    "influence_maps",
    "attribution_audit",
    "eval_report",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    """A project with every arm there is, one arm and two variants of its own."""
    project = Project(tmp_path_factory.mktemp("rank"))
    project.settings |= {"arms": EVERY_ARM, "variants": VARIANTS}
    project.save()
    return project.config


@pytest.mark.parametrize(
    ("asked", "goal"),
    [
        ({}, Goal(variant="motive", arm="motive")),
        ({"arm": "quick"}, Goal(variant="quick", arm="quick")),
        ({"variant": "no_mask"}, Goal(variant="no_mask", arm="no_mask")),
        ({"variant": "no_arm"}, Goal(variant="no_arm", arm=None)),
        ({"arm": "random"}, Goal(variant=None, arm="random")),
        ({"arm": "bottom"}, Goal(variant="motive", arm="bottom")),
    ],
)
def test_one_ranking_needs_no_other_variant_and_nothing_of_training(config, asked, goal):
    found = goal_of(config, **{"arm": None, "variant": None} | asked)
    assert found == goal
    assets = Graph(config).with_ancestors(found.assets)
    assert set(found.assets) <= set(assets)
    lanes = {asset.partition("/")[2] for asset in assets} - {""}
    assert lanes == {name for name in (goal.variant, goal.arm) if name is not None}
    assert not [asset for asset in assets if asset.startswith(TRAINING)]


def test_what_is_chosen_by_default_follows_lead_arm(config, tmp_path):
    project = Project(tmp_path)
    project.settings |= {"arms": EVERY_ARM, "variants": VARIANTS, "lead_arm": "motive_plus"}
    project.save()
    assert goal_of(project.config, arm=None, variant=None) == Goal(variant="motive_plus", arm="motive_plus")


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({"variant": "quik"}, ["--variant quik", "Did you mean 'quick'?", "no_mask", "`variants`"]),
        ({"arm": "qick"}, ["Did you mean 'quick'?"]),
        ({"arm": "base"}, ["--arm base", "trains on nothing", "Name another: full"]),
    ],
)
def test_an_arm_or_variant_that_there_is_not_is_refused_with_those_there_are(config, asked, parts):
    with pytest.raises(MotiveError) as error:
        goal_of(config, **{"arm": None, "variant": None} | asked)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("word", UNTIL)
def test_until_ends_with_these_assets_of_all_variants_and_arms(config, word):
    graph = Graph(config)
    assets = assets_until(graph, word)
    words = list(UNTIL)
    names = [name for each in words[: words.index(word) + 1] for name in UNTIL[each]]
    last = {key for key, asset in graph.assets.items() if asset.name in names}
    assert last <= set(assets)
    assert set(assets) == last | (graph.ancestors(last) & graph.assets.keys())
    expected = {"catalog": 0, "ranking": 0, "subset": 0, "videos": 2, "report": len(TRAINING)}[word]
    assert len({asset.partition("/")[0] for asset in assets if asset.startswith(TRAINING)}) == expected
    if word in ("ranking", "subset"):
        assert not graph.ancestors(last) & {key for key in graph.assets if key.startswith(TRAINING)}
    if word == "catalog":
        assert assets == ["clip_catalog", "query_catalog"]
    else:
        assert {f"projected_gradients/{variant}" for variant in config.variants} <= set(assets)


def test_until_with_select_and_a_summary_without_a_report_are_refused(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "--config", str(config.file), "--until", "ranking", "--select", "latents"])
    assert stopped.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
    assert cli.main(["run", "--config", str(config.file), "--until", "subset", "--summary"]) == 1
    assert "--until subset leaves out" in capsys.readouterr().err


def planned(asset: str, rows: int | None = None, seconds: float | None = None, hours: float = 0.0, disk_mb: float = 0.0) -> Planned:
    known = seconds is not None
    return Planned(
        asset=asset, reasons=["x"], certain=True, rows=rows, seconds=seconds,
        device_hours=hours if known else None, disk_mb=disk_mb if known else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("assets", "line"),
    [
        ([], "nothing is stale"),
        ([planned("latents", rows=6)], "1 stale asset; 6 rows (latents 6); no estimate yet for any of them"),
        (
            [planned("latents", 6, 3600.0, 1.0, 20.0), planned("voted_ranking/motive", None, 2.0, 0.0, 0.5)],
            "2 stale assets; 6 rows (latents 6); at most about 3602 s, 1.000 device-hours and 20.5 MB, estimated from earlier runs",
        ),
        (
            [planned("latents", 0, 0.0), planned("projected_gradients/quick", 7)],
            "2 stale assets; 7 rows (projected_gradients/quick 7); at most about 0 s, 0.000 device-hours and 0.0 MB, estimated from earlier "
            "runs; no estimate yet for projected_gradients/quick",
        ),
    ],
)
def test_the_cost_line_adds_up_what_is_known_and_names_what_is_not(assets: Sequence[Planned], line):
    assert cost_line(assets) == line


@pytest.fixture(scope="module")
def ws(tmp_path_factory) -> Workspace:
    """A ranking of twelve clips in the order of their names, with a subset of three, and an arm that takes the last two."""
    folder, num_clips = tmp_path_factory.mktemp("published"), 12
    (folder / "clips").mkdir()
    ws = small_workspace(folder, arms=["base", "bottom", "motive", "random"])
    ids = clip_names(num_clips)
    publish_clips(ws, ids)
    votes = list(range(num_clips, 0, -1))
    frame = pd.DataFrame(
        {
            "clip_id": ids,
            "votes": votes,
            "mean_influence": np.linspace(0.5, -0.05, num_clips),
            "rank": range(1, num_clips + 1),
            "selected": False,
        }
    )
    ws.publish(
        "voted_ranking/motive",
        content="x",
        write=lambda at: frame.to_parquet(at / "ranking.parquet"),
        started=time.time(),
        facts={"queries": 4},
    )
    publish_table(ws, "curated_subset/motive", "subset", {"clip_id": ids[:3], "rank": [1, 2, 3]})
    publish_table(ws, "curated_subset/bottom", "subset", {"clip_id": ids[-1:-3:-1], "rank": [1, 2]})
    publish_table(ws, "curated_subset/random", "subset", {"clip_id": [ids[5]], "rank": [1]})
    return ws


def test_the_first_ten_clips_of_the_ranking_are_printed_and_where_ranking_and_subset_lie(ws):
    lines = result_lines(ws, Goal(variant="motive", arm="motive"))
    assert lines[0].split() == ["rank", "votes", "mean", "influence", "path"]
    assert lines[1].split() == ["1", "12", "+0.5000", "/clips/0000000000000000.mp4"]
    assert [line.split()[0] for line in lines[1:11]] == [str(rank) for rank in range(1, 11)]
    assert lines[11] == f"12 clips ranked by 4 queries: {ws.published('voted_ranking/motive').data_folder / 'ranking.parquet'}"
    assert lines[12] == f"3 clips chosen by the arm motive: {ws.published('curated_subset/motive').data_folder / 'subset.parquet'}"


def test_an_arm_with_an_order_of_its_own_shows_its_own_clips(ws):
    lines = result_lines(ws, Goal(variant="motive", arm="bottom"))
    assert lines[1].split() == ["1", "1", "-0.0500", "/clips/000000000000000b.mp4"]
    assert lines[3].startswith("12 clips ranked")
    lines = result_lines(ws, Goal(variant=None, arm="random"))
    assert lines[0].split() == ["rank", "path"]
    assert lines[1].split() == ["1", "/clips/0000000000000005.mp4"]
    assert lines[2].startswith("1 clip chosen by the arm random")
    assert not any("ranked" in line for line in result_lines(ws, Goal(variant="motive", arm=None))[12:13])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--export", "out"], "--export FOLDER and --for TRAINER belong together"),
        (["--for", "ltx"], "--export FOLDER and --for TRAINER belong together"),
        (["--variant", "no_arm", "--export", "out", "--for", "ltx"], "{name: my_no_arm, variant: no_arm}"),
        (["--export", "full", "--for", "ltx"], "full: this folder is not empty"),
        (["--export", "out", "--for", "musubi", "--videos", "original"], "--videos original"),
    ],
)
def test_an_export_that_cannot_be_is_refused_before_any_work(config, tmp_path, monkeypatch, capsys, options, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    monkeypatch.setattr("assets.plan.plan", lambda *_: pytest.fail("work has begun"))
    assert cli.main(["rank", "--config", str(config.file), *options]) == 1
    assert part in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_run_computes_one_variant_and_exports_it_at_once(tmp_path):
    """Two fresh roots, a real Dagster run each: ``motive rank`` and the selection that it stands for compute the same assets, and no others."""
    made = []
    for name, command in (
        ("rank", ["rank", "--export", "out", "--for", "videofolder"]),
        ("select", ["run", "--select", '+key:"curated_subset/motive"']),
    ):
        project = StalenessProject(tmp_path / name)
        project.settings |= {"arms": ["base", "random", "no_mask", "motive", "motive_plus"], "variants": VARIANTS}
        project.save()
        assert project.motive("rank", "--dry-run").code == 0
        assert not +project.materializations(), "a dry run computes nothing"
        outcome = project.motive(*command)
        assert outcome.code == 0, outcome.err[-3000:]
        runs = project.materializations()
        made.append({asset for asset, count in runs.items() if count})
        assert set(runs.values()) <= {0, 1}
        assert len(open_gradients(project.workspace.published("projected_gradients/motive").path, 64)) == 6
        assert [path.name for path in (project.workspace.root / "rows" / "gradient").iterdir()] == [
            project.config.row_fingerprint("gradient", "motive")
        ]
        if name == "rank":
            assert outcome.out.startswith("voted_ranking/motive and curated_subset/motive: 12 stale assets; 26 rows (latents 6")
            assert f"1 clips in {tmp_path / 'rank' / 'out'}" in outcome.out
            explained = project.motive("explain", "5.mp4", "--no-maps")
            assert explained.code == 0, explained.err
            assert "hosen: rank" in explained.out
            again = project.motive(*command)
            assert (again.code, "nothing is stale" in again.out, "nothing new to write" in again.out) == (0, True, True)
    assert made[0] == made[1] == {
        "clip_catalog", "query_catalog", "latents", "query_latents", "motion_masks", "query_masks", "eligible_pool", "projected_gradients/motive",
        "query_gradients/motive", "influence_matrix/motive", "voted_ranking/motive", "curated_subset/motive",
    }  # fmt: skip


def test_the_options_of_the_layout_reach_the_export_of_both_commands(config, tmp_path, monkeypatch, capsys):
    asked = []

    def export_subset(ws, arm, folder, trainer, **options):
        asked.append((arm, folder, trainer, options))
        return ExportResult(folder=folder, num_clips=3, num_written=3, use="it", warnings=["a warning"])

    monkeypatch.setattr("motive_pipeline.export.subset.export_subset", export_subset)
    monkeypatch.setattr("assets.plan.plan", lambda *_: [])
    monkeypatch.setattr("assets.run_stale.run_stale", lambda *_: Report())
    monkeypatch.setattr("motive_pipeline.commands.ranking.result_lines", lambda *_: ["the ranking"])
    layout = ["--config", str(config.file), "--for", "simpletuner", "--audio", "keep"]
    assert cli.main(["export", "--arm", "random", "--to", str(tmp_path / "a"), *layout]) == 0
    assert cli.main(["rank", "--arm", "quick", "--export", str(tmp_path / "b"), *layout]) == 0
    options = {"videos": "window", "audio": "keep"}
    assert asked == [("random", tmp_path / "a", "simpletuner", options), ("quick", tmp_path / "b", "simpletuner", options)]
    said = capsys.readouterr()
    assert said.out.endswith(f"the ranking\n3 clips in {tmp_path / 'b'}\nUse: it\n")
    assert said.err.count("motive: note: a warning") == 2
