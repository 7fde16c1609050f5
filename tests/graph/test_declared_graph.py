"""The graph is declared once: whoever knows it derives it from ``motive_pipeline/graph/``. A toy stage and a toy arm show it."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from assets.definitions import build_definitions
from assets.plan import plan
from motive_pipeline.config import load_config
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.graph import ARMS, SOURCES, STAGES, Arm, Graph, Output, Stage, resolve_dotted
from motive_pipeline.lineage import lineage
from motive_pipeline.report.provenance_tables import versions_table
from motive_pipeline.report.tables import arm_name
from motive_pipeline.storage.workspace import Publication, Workspace
from tests.curation_fixtures import clip_names, publish_clips

BASE = "clips: {source: demo, demo: {num_clips: 9}}\nqueries: {source: demo}\nmodel: {path: tiny}\n"


def publish_brightness(ws: Workspace) -> Publication:
    """The publishing function of the toy stage."""
    table = pd.DataFrame({"clip_id": ws.published("clip_catalog").table("catalog")["clip_id"], "brightness": 0.5})
    return ws.publish(
        "brightness",
        content="toy",
        write=lambda folder: table.to_parquet(folder / "index.parquet"),
        started=time.time(),
        table_rows=len(table),
    )


def from_the_end(ws: Workspace, arm: Arm, pool):
    """The choosing function of the toy arm."""
    assert arm.name == "reversed"
    return pool[::-1]


TOY_STAGE = Stage(
    name="brightness",
    settings=("clips.width",),
    publish=f"{__name__}:publish_brightness",
    group="clips",
    rejects=True,
    outputs=(Output(name="brightness", description="A toy.", reads=("clip_catalog",), screens_clips=True, reports=True),),
)
TOY_ARM = Arm(
    name="reversed",
    label="from the end",
    description="The last clips.",
    choose=f"{__name__}:from_the_end",
    reads=("brightness",),
)


@pytest.fixture
def toys(monkeypatch) -> None:
    monkeypatch.setitem(STAGES, TOY_STAGE.name, TOY_STAGE)
    monkeypatch.setitem(ARMS, TOY_ARM.name, TOY_ARM)


@pytest.fixture
def toy_ws(toys, make_config) -> Workspace:
    return Workspace(make_config(BASE + "arms: [base, random, motive, reversed]\n"))


def parents(definitions) -> dict[str, set[str]]:
    graph = definitions.resolve_asset_graph()
    return {key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys} for key in graph.get_all_asset_keys()}


def test_a_toy_stage_and_a_toy_arm_are_in_dagsters_graph(toy_ws):
    found = parents(build_definitions(toy_ws.config, toy_ws))
    assert found["brightness"] == {"clip_catalog"}
    assert found["curated_subset/reversed"] == {"eligible_pool", "brightness"}
    assert {"brightness", "latents", "motion_masks"} == found["eligible_pool"]
    assert "brightness" in found["rejected_clips"]
    assert {"brightness", "eval_scores/reversed", "generated_videos/reversed"} <= found["eval_report"]
    assert found["finetuned_checkpoint/reversed"] == {"curated_subset/reversed", "latents", "base_model"}


def test_they_are_in_the_plan(toy_ws):
    planned = {asset.asset for asset in plan(toy_ws.config)}
    assert {"brightness", "curated_subset/reversed", "eval_scores/reversed"} <= planned


def test_they_are_in_the_provenance(toy_ws):
    publish_clips(toy_ws, clip_names(20))
    publication = toy_ws.graph.asset("brightness").publish(toy_ws)
    assert publication.provenance["upstream"] == {"clip_catalog": toy_ws.published("clip_catalog").data_version}
    assert publication.provenance["settings"] == {"clips.width": toy_ws.config.clips.width}
    subset = publish_subset(toy_ws, "reversed")
    assert subset.table("subset")["clip_id"].tolist() == clip_names(20)[:-3:-1]
    assert subset.provenance["upstream"]["brightness"] == publication.data_version


def test_they_are_in_the_report(toy_ws, monkeypatch):
    shown = dict.fromkeys(toy_ws.graph.assets, "v")
    monkeypatch.setattr(
        Workspace,
        "published",
        lambda ws, asset: dataclasses.replace(EMPTY, asset=asset, provenance={"code_version": 1}, data_version=shown[asset]),
    )
    monkeypatch.setattr("motive_pipeline.report.provenance_tables.model_hash", lambda ws: "0" * 32)
    monkeypatch.setattr("motive_pipeline.report.provenance_tables.version_rows", lambda ws: [])
    rows = [row[0] for row in versions_table(toy_ws).rows]
    assert {"brightness", "curated_subset/reversed", "eval_scores/reversed"} <= set(rows)
    assert arm_name("reversed") == "from the end"


EMPTY = Publication(asset="", folder=Path("/"), data_version="", fingerprint="")


def test_a_config_takes_the_toy_arm_by_name_and_suggests_near_ones(toys, make_config):
    assert "reversed" in make_config(BASE + "arms: [motive, reversed]\n").arms
    with pytest.raises(ConfigError, match=r"there is no arm 'motiv'. Did you mean 'motive'"):
        make_config(BASE + "arms: [motiv]\n")


def test_every_dotted_name_exists():
    for stage in STAGES.values():
        if stage.publish is not None:
            assert callable(resolve_dotted(stage.publish)), stage.name
    for source in SOURCES.values():
        assert callable(resolve_dotted(source.observe)), source.name
    for arm in ARMS.values():
        if arm.choose is not None:
            assert callable(resolve_dotted(arm.choose)), arm.name


def test_every_source_is_taken_in_by_an_asset_that_reads_it(make_config):
    graph = Graph(make_config(BASE))
    for source in SOURCES.values():
        assert source.name in graph.asset(source.taken_in_by).reads


def test_parents_come_first(make_config):
    graph = Graph(make_config(BASE + f"arms: [{', '.join(ARMS)}]\n"))
    seen: set[str] = set(SOURCES)
    for key, asset in graph.assets.items():
        assert set(asset.reads) <= seen, key
        seen.add(key)


def test_a_stage_that_reads_nothing_known_and_two_that_read_each_other_are_refused(make_config, monkeypatch):
    config = make_config(BASE)
    monkeypatch.setitem(STAGES, "toy", dataclasses.replace(TOY_STAGE, outputs=(Output(name="toy", description="", reads=("nowhere",)),)))
    with pytest.raises(ValueError, match="toy reads nowhere"):
        Graph(config)
    outputs = (Output(name="a", description="", reads=("b",)), Output(name="b", description="", reads=("a",)))
    monkeypatch.setitem(STAGES, "toy", dataclasses.replace(TOY_STAGE, rejects=False, outputs=outputs))
    with pytest.raises(ValueError, match="read each other: a <- b <- a"):
        Graph(config)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("latent", "Did you mean 'latents'"),
        ("voted_ranking", "There are: voted_ranking/motive"),
        ("voted_ranking/x", "voted_ranking/no_mask"),
    ],
)
def test_an_unknown_asset_is_told_what_there_is(make_config, key, expected):
    with pytest.raises(MotiveError, match=re.escape(expected)):
        Graph(make_config(BASE)).asset(key)


def test_importing_the_graph_or_the_code_location_loads_no_heavy_library():
    code = "import sys, assets.definitions; print([name for name in ('torch', 'diffusers', 'transformers', 'zarr') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "torch" not in found.stdout
    assert "diffusers" not in found.stdout


def test_the_lineage_in_the_docs_is_the_graphs():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    expected = lineage(load_config(root / "motive.yaml"))
    assert expected in text, "run `python -m motive_pipeline.lineage` and put its output into docs/architecture.md"
