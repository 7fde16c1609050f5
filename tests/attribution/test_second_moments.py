"""Preconditioners in the pipeline: second moments as an asset, what they recompute and what they do not."""

import shutil

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import load_file, save_file

from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.preconditioner import adam_scales
from motive_pipeline.attribution.second_moments import publish_second_moments
from motive_pipeline.attribution.stage import load_gradients, publish_gradients
from motive_pipeline.errors import GateFailed, MotiveError, NotPublished
from motive_pipeline.graph import Graph
from motive_pipeline.latents.stage import LatentSet, publish_latents
from motive_pipeline.models.load import load_model
from motive_pipeline.motion.stage import MaskSet
from tests.gradient_fixtures import add_clip, workspace


def adam(folder, **settings):
    return workspace(folder, influence={"preconditioner": "adam", "adam_clips": 2, **settings})


def test_adams_gradients_are_those_over_the_published_second_moments(folder):
    ws = adam(folder)
    with pytest.raises(NotPublished, match="second_moments"):
        publish_gradients(ws, variant="motive", role="clip")
    moments = publish_second_moments(ws)
    assert moments.counts.computed == 2
    assert moments.facts["source"] == "warm-up"
    assert (moments.facts["clips"], moments.facts["clips left out"]) == (2, 0)
    publication = publish_gradients(ws, variant="motive", role="clip")
    found = load_gradients(ws, "motive", "clip", 1024)
    model = load_model(ws.config.model, threads=1)
    scales = adam_scales(load_file(moments.path / "second_moments.safetensors"), eps=ws.config.influence.adam_eps)
    latents, masks = LatentSet(ws, "clip"), MaskSet(ws, "clip")
    expected = build_clip_gradient(model, ws.config.gradient, scales=scales)(*latents.get(found.clip_ids[1]), masks.get(found.clip_ids[1]))
    assert np.array_equal(np.asarray(found.gradient_NP[1]), expected.gradient_P)
    assert found.attributes["second_moments"]
    assert found.attributes["provenance"]["settings"]["influence.adam_eps"] == 1e-3
    assert "second_moments" in publication.provenance["upstream"]
    plain = publish_gradients(workspace(folder), variant="motive", role="clip")
    assert plain.counts.computed == 3, "without the preconditioner they are other gradients"
    assert publish_gradients(adam(folder), variant="motive", role="clip").counts.reused == 3, "and going back costs nothing"


def test_the_variants_and_the_queries_share_the_second_moments(folder):
    ws = adam(folder)
    publish_second_moments(ws)
    sets = [publish_gradients(ws, variant=variant, role=role) for variant in ("motive", "no_mask") for role in ("clip", "query")]
    assert len({zarr.open(each.path, mode="r").attrs["second_moments"] for each in sets}) == 1


def test_a_new_clip_leaves_whole_second_moments_and_the_gradients_over_them(folder):
    ws = adam(folder)
    before = publish_second_moments(ws)
    publish_gradients(ws, variant="motive", role="clip")
    add_clip(folder, ws)
    after = publish_second_moments(ws)
    assert (after.counts.computed, after.data_version) == (0, before.data_version)
    assert publish_gradients(ws, variant="motive", role="clip").counts.computed == 1


def test_a_warm_up_that_had_too_few_clips_is_done_again_when_there_are_more(folder):
    ws = adam(folder, adam_clips=8)
    before = publish_second_moments(ws)
    assert before.counts.computed == 3
    assert publish_second_moments(ws).counts.computed == 0
    add_clip(folder, ws)
    after = publish_second_moments(ws)
    assert after.counts.computed == 4
    assert after.data_version != before.data_version


def test_other_frames_other_weights_or_another_seed_need_another_warm_up(folder):
    publish_second_moments(adam(folder))
    assert publish_second_moments(adam(folder, adam_seed=1)).counts.computed == 2
    assert publish_second_moments(adam(folder, adam_eps=0.1)).counts.computed == 0
    shorter = workspace(folder, influence={"preconditioner": "adam", "adam_clips": 2}, clips={"num_frames": 5})
    publish_latents(shorter, role="clip")
    assert publish_second_moments(shorter).counts.computed == 2


def test_second_moments_may_come_from_an_optimizers_state(folder):
    ws = workspace(folder)
    named = dict(load_model(ws.config.model, threads=1).transformer.named_parameters())
    file = folder / "state.safetensors"
    save_file({name: torch.rand(value.shape) for name, value in named.items()}, file)
    shutil.rmtree(folder / "motive_data/published/latents", ignore_errors=True)
    first = publish_second_moments(adam(folder, adam_state=str(file)))
    assert first.facts["source"] == str(file)
    save_file({name: torch.rand(value.shape) for name, value in named.items()}, file)
    assert publish_second_moments(adam(folder, adam_state=str(file))).data_version != first.data_version
    with pytest.raises(MotiveError, match=r"influence\.adam_state.*missing\.bin"):
        publish_second_moments(adam(folder, adam_state=str(folder / "missing.bin")))


def test_a_warm_up_without_any_finite_gradient_stops(folder, monkeypatch):
    get = LatentSet.get
    monkeypatch.setattr(
        LatentSet, "get", lambda self, clip_id: (torch.full_like(get(self, clip_id)[0], float("nan")), get(self, clip_id)[1])
    )
    with pytest.raises(GateFailed, match="none of the 2 clips"):
        publish_second_moments(adam(folder))


def test_traks_kernel_computes_no_gradient_again(folder):
    publish_gradients(workspace(folder), variant="motive", role="clip")
    ws = workspace(folder, influence={"preconditioner": "trak", "trak_lambda": 3.0})
    assert publish_gradients(ws, variant="motive", role="clip").counts.computed == 0


def test_the_graph_has_second_moments_only_for_adam(folder, monkeypatch):
    def graph(ws):
        return {key: set(asset.reads) for key, asset in Graph(ws.config).assets.items()}

    assert "second_moments" not in graph(workspace(folder))
    found = graph(adam(folder))
    assert found["second_moments"] == {"base_model", "latents"}
    assert all(
        "second_moments" in found[f"{name}/{v}"] for name in ("projected_gradients", "query_gradients") for v in ("motive", "no_mask")
    )
    assert graph(adam(folder, adam_state="x.bin"))["second_moments"] == {"base_model"}
