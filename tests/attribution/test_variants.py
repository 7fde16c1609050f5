"""The chain of a variant of one's own: what its gradients, influence, ranking and arm are made from."""

import shutil

import numpy as np
import pytest

from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.influence import publish_influence
from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.attribution.stage import load_gradients, publish_gradients
from motive_pipeline.catalog.stage import publish_clip_catalog
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.pool import publish_eligible_pool
from motive_pipeline.curation.vote import publish_ranking
from motive_pipeline.latents.stage import LatentSet, publish_latents
from motive_pipeline.models.load import load_model
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.storage.workspace import Workspace
from tests.gradient_fixtures import workspace

VARIANTS = {
    "asked": {"mask": "query"},
    "several": {"draws": 4, "mask": "query", "proj_dim": 1024},
    "by_draw": {"draws": 3, "combine": "mean_cosine", "proj_dim": 256},
    "mean": {"rule": "mean_influence"},
}
ARMS = ["base", "no_mask", "motive", {"name": "by_mean", "variant": "motive", "rule": "mean_influence"}, {"name": "own", "variant": "mean"}]


@pytest.fixture
def ws(folder) -> Workspace:
    return workspace(folder, variants=VARIANTS, arms=ARMS)


def publish(ws: Workspace, variant: str) -> None:
    """The gradients and the influence of one variant."""
    for role in ("clip", "query"):
        publish_gradients(ws, variant=variant, role=role)
    publish_influence(ws, variant)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_mask_on_the_query_alone_takes_the_clips_plain_gradients_from_where_they_are(ws):
    plain = publish_gradients(ws, variant="no_mask", role="clip")
    masked = publish_gradients(ws, variant="motive", role="query")
    asked = {role: publish_gradients(ws, variant="asked", role=role) for role in ("clip", "query")}
    assert (plain.counts.computed, asked["clip"].counts.computed, asked["clip"].counts.reused) == (3, 0, 3)
    assert asked["query"].counts.reused == masked.counts.computed
    for variant, role in (("no_mask", "clip"), ("motive", "query")):
        assert np.array_equal(load_gradients(ws, "asked", role, 1024).rows(), load_gradients(ws, variant, role, 1024).rows())


def test_each_lane_has_its_own_draws(ws):
    publish_gradients(ws, variant="several", role="clip")
    config, latents = ws.config.of_variant("several"), LatentSet(ws, "clip")
    gradient = build_clip_gradient(load_model(ws.config.model, threads=1), config.gradient)
    found = load_gradients(ws, "several", "clip", 1024)
    for row, clip_id in zip(found.rows(), found.clip_ids, strict=True):
        assert np.allclose(row, gradient(*latents.get(clip_id), None).gradient_P, atol=1e-6)
    assert len(found.attributes["draws"]) == 4
    assert found.attributes["provenance"]["settings"]["gradient.draws"] == 4
    assert "gradient.timestep" not in found.attributes["provenance"]["settings"]


def test_the_mean_of_cosines_is_that_of_the_single_draws(ws):
    publish(ws, "by_draw")
    queries, clips = (load_gradients(ws, "by_draw", role, 10**6) for role in ("query", "clip"))
    assert clips.gradient_NP.shape == (3, 3 * 1024)
    single = [np.asarray(each.gradient_NP[:]).reshape(-1, 3, 1024)[:, :, :256].astype(np.float64) for each in (queries, clips)]
    expected = np.einsum("qdp,ndp->qn", *map(unit, single)) / 3
    influence = np.concatenate(list(load_influence(ws, "by_draw").blocks(clips.id_N)))
    assert np.allclose(influence, expected, atol=1e-6)


def test_a_draw_of_the_mean_is_that_variants_own_gradient(ws):
    publish_gradients(ws, variant="by_draw", role="query")
    rows = np.asarray(load_gradients(ws, "by_draw", "query", 10**6).gradient_NP[:]).reshape(-1, 3, 1024)
    latents, masks = LatentSet(ws, "query"), MaskSet(ws, "query")
    settings = ws.config.of_variant("by_draw").gradient.model_copy(update={"combine": "mean_gradient", "draws": None})
    found = load_gradients(ws, "by_draw", "query", 10**6)
    second = found.attributes["draws"][1]
    only = settings.model_copy(update={"timestep": second[0], "noise_seed": second[1]})
    gradient = build_clip_gradient(load_model(ws.config.model, threads=1), only)
    for row, clip_id in zip(rows[:, 1], found.clip_ids, strict=True):
        assert np.allclose(unit(row), gradient(*latents.get(clip_id), masks.get(clip_id)).gradient_P, atol=1e-6)


def test_an_arm_takes_the_clips_by_its_own_rule_or_by_that_of_its_variant(ws):
    publish_eligible_pool(ws)
    for variant in ("motive", "mean"):
        publish(ws, variant)
        publish_ranking(ws, variant)
    ranking = ws.published("voted_ranking/motive").table("ranking")
    best = ranking.sort_values(["mean_influence", "clip_id"], ascending=[False, True])["clip_id"].iloc[0]
    for arm in ("by_mean", "own"):
        assert publish_subset(ws, arm).table("subset")["clip_id"].tolist() == [best]
    assert ws.published("voted_ranking/mean").table("ranking")["clip_id"].iloc[0] == best
    assert ws.published("voted_ranking/mean").facts["rule"] == "mean_influence"


def test_a_clip_without_a_mask_takes_part_where_the_loss_is_plain(folder, ws):
    shutil.copyfile(folder / "queries/slide/query_0.mp4", folder / "clips/unmasked.mp4")
    publish_clip_catalog(ws)
    publish_latents(ws, role="clip")
    rows = {}
    for variant in ("motive", "no_mask", "asked"):
        publish_gradients(ws, variant=variant, role="clip")
        rows[variant] = len(load_gradients(ws, variant, "clip", 64))
    assert rows == {"motive": 3, "no_mask": 4, "asked": 4}
