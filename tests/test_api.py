"""The public interface: what it gives, what it refuses, that it is documented, and that importing it costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

import motive_pipeline
from motive_pipeline.storage.workspace import Workspace
from tests.notebooks import run_notebook

REPOSITORY = Path(__file__).parents[1]
NOTEBOOK = REPOSITORY / "examples" / "public_api.ipynb"


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, motive_pipeline; assert 'open_root' in dir(motive_pipeline);"
        "sys.exit(' '.join({'torch', 'diffusers', 'pandas', 'numpy', 'duckdb', 'yaml', 'dagster'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"importing motive_pipeline loads {done.stderr}"


def test_reading_a_root_loads_no_torch():
    code = "import sys, motive_pipeline; motive_pipeline.open_root, motive_pipeline.MotiveError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", motive_pipeline.__all__)
def test_every_public_name_is_there_and_documented(name: str):
    assert getattr(motive_pipeline, name) is not None
    if not name.startswith("__"):
        assert re.search(rf"`(Root\.)?{name}\b", (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8"))


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        motive_pipeline.nonsense  # noqa: B018


@pytest.fixture
def root(evaluated: Workspace) -> motive_pipeline.Root:
    return motive_pipeline.open_root(evaluated.root)


def test_a_root_is_opened_by_its_folder_or_its_config(evaluated: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "motive.yaml"
    file.write_text(f"storage: {{root: {evaluated.root}}}\nclips: {{source: demo}}\nqueries: {{source: demo}}\n")
    monkeypatch.setenv("MOTIVE_CONFIG", str(file))
    for opened in (motive_pipeline.open_root(evaluated.root), motive_pipeline.open_root(str(file)), motive_pipeline.open_root()):
        assert opened.folder == evaluated.root
        assert repr(opened) == f"Root('{evaluated.root}')"


def test_a_folder_that_is_no_root_is_refused(tmp_path: Path):
    with pytest.raises(motive_pipeline.MotiveError, match=r"is not a root.*storage\.root"):
        motive_pipeline.open_root(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_ranking_is_the_published_one_with_paths_and_captions(root: motive_pipeline.Root, evaluated: Workspace):
    for variant in ("motive", "no_mask"):
        ranking = root.ranking(variant)
        published = evaluated.published(f"voted_ranking/{variant}").table("ranking")
        pd.testing.assert_frame_equal(ranking[list(published.columns)], published, check_dtype=False)
        assert list(ranking["rank"]) == list(range(1, len(published) + 1))
        catalog = evaluated.published("clip_catalog").table("catalog").set_index("clip_id")
        assert list(ranking["caption"]) == [catalog.at[clip_id, "caption"] for clip_id in ranking["clip_id"]]
        assert list(ranking["path"]) == [catalog.at[clip_id, "path"] for clip_id in ranking["clip_id"]]


def test_the_influence_of_a_clip_is_its_column_of_the_matrix(root: motive_pipeline.Root):
    group = zarr.open_group(root.path("influence_matrix/no_mask"), mode="r")
    ids = {name: [bytes(value).decode() for value in np.asarray(group[name][:]).tolist()] for name in ("query_id", "clip_id")}  # type: ignore[index]
    for column, clip_id in enumerate(ids["clip_id"]):
        found = root.influence(clip_id, "no_mask").set_index("query_id")
        assert set(found.index) == set(ids["query_id"])
        assert list(found.loc[ids["query_id"], "influence"]) == np.asarray(group["influence"][:, column]).tolist()  # type: ignore[index]
        assert set(found["clip_id"]) == {clip_id}
        assert found["caption"].notna().all()


def test_sql_reads_and_does_not_write(root: motive_pipeline.Root):
    assert root.sql("SELECT count(*) AS n FROM ranking WHERE selected AND variant = 'motive'")["n"].tolist() == [3]
    with pytest.raises(motive_pipeline.MotiveError, match="read-only"):
        root.sql("DROP VIEW ranking")


def test_an_asset_that_there_is_not_is_answered_with_the_nearest_name(root: motive_pipeline.Root):
    with pytest.raises(motive_pipeline.MotiveError, match=r"no asset 'latent' under these settings\. Did you mean 'latents'"):
        root.path("latent")
    with pytest.raises(motive_pipeline.MotiveError, match=r"no asset 'voted_ranking/motiv'.*voted_ranking/motive"):
        root.path("voted_ranking/motiv")


@pytest.mark.parametrize("clip_id", ["no such clip", "' OR 1 = 1 --"])
def test_an_unknown_clip_or_variant_is_named(root: motive_pipeline.Root, clip_id: str):
    with pytest.raises(motive_pipeline.MotiveError, match="no row of an influence with variant = 'motive'"):
        root.influence(clip_id)
    with pytest.raises(motive_pipeline.MotiveError, match="no row of a ranking with variant = 'nobody'"):
        root.ranking("nobody")


class Linear(motive_pipeline.VideoModel):
    """A model of one's own: each channel of the velocity is a mix of the noisy latents' channels, plus the prompt's mean."""

    prediction = "flow"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.transformer, self.device = torch.nn.Linear(4, 4), torch.device("cpu")

    def predict(self, latents_BCFHW, timestep_B, conditioning):
        mixed = self.transformer(latents_BCFHW.movedim(1, -1)).movedim(-1, 1)
        return mixed + conditioning["prompt_embeds"].mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)


def test_the_gradient_of_ones_own_model_is_autograds():
    model, generator = Linear(), torch.Generator().manual_seed(1)
    latents, prompt = torch.randn(4, 2, 3, 3, generator=generator), torch.randn(5, 6, generator=generator)
    mask = torch.rand(2, 3, 3, generator=generator)
    settings = motive_pipeline.Gradient(timestep=250, projection="exact")
    feature = motive_pipeline.build_clip_gradient(model, settings)(latents, {"prompt_embeds": prompt}, mask)

    from motive_pipeline.attribution.noise import latent_noise

    noise = latent_noise(0, (4, 2, 3, 3))
    velocity = model.predict((0.75 * latents + 0.25 * noise)[None], torch.tensor([250.0]), {"prompt_embeds": prompt[None]})[0]
    loss = (mask * (velocity - (noise - latents)).square().mean(dim=0)).mean()
    named = dict(zip(("bias", "weight"), torch.autograd.grad(loss, (model.transformer.bias, model.transformer.weight)), strict=True))
    expected = torch.cat([named[name].flatten() for name in sorted(named)])
    assert feature.norm == pytest.approx(float(expected.norm()), rel=1e-5)
    np.testing.assert_allclose(feature.gradient_P, (expected / expected.norm()).numpy(), atol=1e-6)


def test_the_notebook_runs_on_another_root(evaluated: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOTIVE_ROOT", str(evaluated.root))
    tables = [output.value for output in run_notebook(NOTEBOOK)]
    ranking, influence, arms, similarity = (table for table in tables[1:] if table is not None)
    assert list(ranking["rank"]) == [1, 2, 3, 4, 5]
    assert len(influence) == 2
    assert "random" in set(arms["arm"])
    assert similarity[0].drop(0).idxmax() == 3, "the text says that clip 3 has the most influence on clip 0"
