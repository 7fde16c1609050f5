"""A few minutes' look at the whole: every module imports, the code location loads, and the chain from the files to the ranking runs.

``make lowest`` runs these tests (``-m smoke``) with the lowest versions that ``pyproject.toml`` allows.
"""

import importlib
import pkgutil
import subprocess
import sys
import tomllib

import dagster as dg
import numpy as np
import pytest
import zarr

import assets
import motive_pipeline
from assets.definitions import build_definitions
from assets.staleness import stale_assets
from motive_pipeline.attribution.influence import publish_influence
from motive_pipeline.attribution.stage import publish_gradients
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.config import parse_config
from motive_pipeline.curation.pool import publish_eligible_pool
from motive_pipeline.curation.vote import publish_ranking
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.video.encode import write_mp4
from tests import lowest
from tests.clip_fixtures import project, write_project

pytestmark = pytest.mark.smoke

OWN_ENVIRONMENT = ("motive_pipeline.evaluation.vbench.runner",)
"""Modules that run in another Python environment."""


def modules(package) -> list[str]:
    return [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if not found.name.endswith("__main__")]


@pytest.mark.parametrize("package", [motive_pipeline, assets])
def test_every_module_imports(package):
    names = [name for name in modules(package) if name not in OWN_ENVIRONMENT and name != "assets.definitions"]
    assert len(names) > 10
    for name in names:
        importlib.import_module(name)


def test_the_command_starts():
    done = subprocess.run([sys.executable, "-m", "motive_pipeline.cli", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def test_the_config_and_the_code_location_load_and_all_is_missing_at_first(tmp_path):
    config = parse_config("clips: {source: demo}\nqueries: {source: demo}\n", tmp_path / "motive.yaml")
    definitions = build_definitions(config)
    graph = definitions.resolve_asset_graph()
    assert dg.AssetKey("clip_catalog") in graph.materializable_asset_keys
    from motive_pipeline.storage.workspace import Workspace

    with dg.DagsterInstance.ephemeral() as instance:
        stale = stale_assets(graph, instance, Workspace(config))
    assert set(stale) == set(graph.materializable_asset_keys)
    assert {cause.kind for causes in stale.values() for cause in causes} == {"missing"}


def test_the_chain_from_files_to_the_ranking_runs_with_the_embedded_model(tmp_path):
    write_project(tmp_path)
    ws = project(tmp_path, gradient={"store_dim": 512}, influence={"proj_dim": 256}, arms=["base", "motive"])
    publish_clip_catalog(ws)
    publish_query_catalog(ws)
    for role in ("clip", "query"):
        publish_latents(ws, role=role)
        publish_motion_masks(ws, role=role)
        publish_gradients(ws, variant="motive", role=role)
    influence = publish_influence(ws, "motive")
    publish_eligible_pool(ws)
    ranking = publish_ranking(ws, "motive").table("ranking")
    assert sorted(ranking["rank"]) == [1, 2, 3]
    matrix = np.asarray(zarr.open_group(influence.path, mode="r")["influence"])
    assert matrix.shape == (2, 3)
    assert np.isfinite(matrix).all()
    assert ws.scores.query("SELECT count(*) FROM influence").fetchall() == [(6,)]
    write_mp4(tmp_path / "out.mp4", np.zeros((5, 48, 64, 3), np.uint8), 8.0)


def test_every_requirement_has_a_lower_bound_and_private_interfaces_an_upper_one():
    text = lowest.PYPROJECT.read_text(encoding="utf-8")
    lines = lowest.lowest(text)
    assert "torch==2.13" in {line[:11] for line in lines}
    with pytest.raises(ValueError, match="'numpy' has no lower bound"):
        lowest.lowest(text.replace('"numpy>=', '"numpy", "scipy>='))
    declared = tomllib.loads(text)["project"]["dependencies"]
    for library in ("av", "dagster", "dagster-webserver", "diffusers", "duckdb", "torch", "transformers", "zarr"):
        requirement = next(line for line in declared if line.startswith((f"{library}>=",)))
        assert ",<" in requirement, f"{requirement} may install a version whose private interfaces or file formats differ"
