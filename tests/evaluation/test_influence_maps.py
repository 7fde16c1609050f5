"""The stage ``influence_maps``: its maps add up to the scores that they break down, and are computed once."""

import numpy as np
import pytest
import torch

from motive_pipeline.attribution.influence_set import both_ends, load_influence
from motive_pipeline.attribution.loss import Draw, mean_motion_weighted_loss
from motive_pipeline.attribution.preconditioner import adam_scales
from motive_pipeline.attribution.second_moments import load_second_moments
from motive_pipeline.errors import MotiveError
from motive_pipeline.evaluation.clip_maps import MapSet, caveats, compute_clip_maps
from motive_pipeline.evaluation.influence_maps import publish_influence_maps, shown_ends
from motive_pipeline.evaluation.map_rows import MEAN, Pair
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.load import load_model
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.report.gallery import Gallery
from motive_pipeline.report.map_pictures import curve_svg, overlay_influence, window_of
from tests.eval_fixtures import copied, with_settings


def exact_gradient(ws, role, clip_id, scales=None):
    """The oracle: the gradient of the masked loss by autograd, all weights in one vector."""
    model = load_model(ws.config.model, threads=1)
    latents, prompt = LatentSet(ws, role).get(clip_id)
    named = dict(model.transformer.named_parameters())
    draws = [Draw(timestep=500.0, noise_seed=0)]
    loss = mean_motion_weighted_loss(model, latents, prompt, mask_FHW=MaskSet(ws, role).get(clip_id), draws=draws)
    found = torch.autograd.grad(loss, list(named.values()))
    parts = [grad * (1 if scales is None else scales[name]) for name, grad in zip(named, found, strict=True)]
    return torch.cat([part.double().flatten() for part in parts]).numpy()


def exact_scores(ws, pairs, scales=None):
    """The exact cosine of each pair; the mean over the queries for :data:`MEAN`."""
    query_ids = load_influence(ws, "motive").query_ids
    unit = {}
    for role, ids in (("query", query_ids), ("clip", {pair.clip_id for pair in pairs})):
        for each in ids:
            gradient = exact_gradient(ws, role, each, scales)
            unit[role, each] = gradient / np.linalg.norm(gradient)
    asked = [query_ids if pair.query_id == MEAN else [pair.query_id] for pair in pairs]
    return [
        float(np.mean([unit["query", each] @ unit["clip", pair.clip_id] for each in ids])) for pair, ids in zip(pairs, asked, strict=True)
    ]


def all_pairs(ws):
    return [pair for ends in shown_ends(ws, "motive") for pair in ends.pairs]


def test_the_mean_of_every_published_map_is_the_exact_score(evaluated):
    maps, pairs = MapSet(evaluated, "motive"), all_pairs(evaluated)
    assert len(pairs) == 3 * 8
    assert [maps.get(pair).mean for pair in pairs] == pytest.approx(exact_scores(evaluated, pairs), rel=1e-3)
    index = evaluated.published("influence_maps/motive").table("index")
    assert (index["step_change"] <= 1e-2).all()
    assert maps.get(Pair(query_id="nobody", clip_id=pairs[0].clip_id)) is None


def test_the_ends_are_those_of_the_influence(evaluated):
    ranking = evaluated.published("voted_ranking/motive").table("ranking")
    mean, *single = shown_ends(evaluated, "motive")
    assert mean.query_id == MEAN
    ordered = ranking.sort_values("mean_influence", ascending=False)["clip_id"].tolist()
    assert [end.clip_id for end in mean.best] == ordered[:4]
    assert [end.clip_id for end in mean.worst] == ordered[::-1][:4]
    matrix = load_influence(evaluated, "motive")
    for ends in single:
        influence = dict(zip(matrix.clip_ids, matrix.query(ends.query_id).tolist(), strict=True))
        assert [end.influence for end in ends.best] == sorted(influence.values(), reverse=True)[:4]
        assert [end.influence for end in ends.worst] == sorted(influence.values())[:4]
        assert [end.place for end in (*ends.best, *ends.worst)] == [1, 2, 3, 4, 9, 8, 7, 6]
        assert all(influence[end.clip_id] == end.influence for end in (*ends.best, *ends.worst))


def test_no_clip_stands_at_both_ends():
    assert both_ends(np.array([1.0, 3.0, 2.0]), 4) == ([1], [0])
    assert both_ends(np.array([1.0, 3.0, 2.0, 0.0]), 2) == ([1, 2], [3, 0])
    assert both_ends(np.array([1.0]), 2) == ([], [])


def test_a_second_time_computes_nothing(evaluated, tmp_path, tiny_model, monkeypatch):
    ws = copied(evaluated, tmp_path, tiny_model)
    before = ws.published("influence_maps/motive")
    monkeypatch.setattr("motive_pipeline.evaluation.map_rows.load_attributed_model", None)
    again = publish_influence_maps(ws, variant="motive")
    assert again.data_version == before.data_version
    assert (again.counts.computed, again.counts.reused) == (0, 2 * 24)


def test_maps_leave_the_shared_model_as_it_is(evaluated):
    model = load_model(evaluated.config.model, threads=1)
    before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    pair = all_pairs(evaluated)[0]
    compute_clip_maps(evaluated, "motive", [pair])
    assert load_model(evaluated.config.model, threads=1) is model
    assert all(torch.equal(before[name], value) for name, value in model.transformer.state_dict().items())


def test_a_map_made_on_demand_is_the_published_one(evaluated):
    pair = all_pairs(evaluated)[5]
    published, made = MapSet(evaluated, "motive").get(pair), compute_clip_maps(evaluated, "motive", [pair])[pair]
    assert np.array_equal(published.map_FHW, made.map_FHW)
    assert np.array_equal(published.untrained_FHW, made.untrained_FHW)
    assert published.step == made.step


def test_the_untrained_network_has_a_map_of_its_own(evaluated):
    clip_map = MapSet(evaluated, "motive").get(all_pairs(evaluated)[0])
    assert clip_map.untrained_FHW.shape == clip_map.map_FHW.shape == (5, 8, 8)
    assert clip_map.untrained_FHW.any()
    assert -1 <= clip_map.agreement < 0.999


def test_another_model_and_other_settings_are_refused_with_what_to_do(evaluated, monkeypatch):
    pair = all_pairs(evaluated)[0]
    other = with_settings(evaluated, gradient=evaluated.config.gradient.model_copy(update={"timestep": 250.0}))
    with pytest.raises(MotiveError, match=r"settings of the gradient are not those .* `motive run`.*set them back"):
        compute_clip_maps(other, "motive", [pair])
    monkeypatch.setattr("motive_pipeline.evaluation.map_rows.model_hash", lambda _: "f" * 64)
    with pytest.raises(
        MotiveError, match=r"is not the one that the published gradients were made with \(hash f{12} instead of .*`motive run`"
    ):
        compute_clip_maps(evaluated, "motive", [pair])


def test_what_does_not_fit_into_memory_is_a_note_and_no_failure(evaluated, tmp_path, tiny_model, monkeypatch):
    ws = copied(evaluated, tmp_path, tiny_model)
    ws = with_settings(ws, gradient=ws.config.gradient.model_copy(update={"frame_norm": "paper_literal"}))
    monkeypatch.setattr("motive_pipeline.attribution.weight_direction.free_memory_gb", lambda _: 1e-6)
    publication = publish_influence_maps(ws, variant="motive")
    assert publication.facts["maps"] == 0
    note = MapSet(ws, "motive").note
    assert note.startswith("There are no influence maps: influence maps need 0.")
    assert "GB are free on cpu" in note
    cards = Gallery(ws, None).queries()
    assert all(not card.curve for each in cards for card in (*each.best, *each.worst)), "the clips are shown without maps"


def test_with_adam_the_maps_add_up_to_the_preconditioned_score(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    ws = with_settings(ws, influence=ws.config.influence.model_copy(update={"preconditioner": "adam", "adam_clips": 3}))
    for name in (
        "second_moments",
        "projected_gradients/motive",
        "query_gradients/motive",
        "influence_matrix/motive",
        "voted_ranking/motive",
    ):
        ws.graph.asset(name).publish(ws)
    publish_influence_maps(ws, variant="motive")
    maps, pairs = MapSet(ws, "motive"), all_pairs(ws)[4:12]
    scales = adam_scales(load_second_moments(ws, torch.device("cpu")), eps=ws.config.influence.adam_eps)
    assert [maps.get(pair).mean for pair in pairs] == pytest.approx(exact_scores(ws, pairs, scales), rel=1e-3, abs=1e-5)


def test_caveats_say_where_a_map_is_not_quite_the_score(evaluated):
    assert caveats(evaluated, "motive") == []
    settings = evaluated.config
    trak = with_settings(evaluated, influence=settings.influence.model_copy(update={"preconditioner": "trak"}))
    assert "TRAK's kernel" in " ".join(caveats(trak, "motive"))
    several = with_settings(evaluated, gradient=settings.gradient.model_copy(update={"num_noises": 3}))
    assert "an estimate from its projection" in " ".join(caveats(several, "motive"))
    half = with_settings(evaluated, model=settings.model.model_copy(update={"dtype": "bfloat16"}))
    assert "gradients in bfloat16" in " ".join(caveats(half, "motive"))


def test_the_overlay_is_orange_where_influence_is_positive_and_blue_where_it_is_negative():
    grey = np.full((16, 32, 3), 100, np.uint8)
    influence = np.zeros((2, 4), np.float32)
    influence[:, :2], influence[:, 2:] = 2.0, -2.0
    shown = overlay_influence(grey, influence, 2.0).astype(int)
    assert shown[8, 2, 0] > shown[8, 2, 2] + 80
    assert shown[8, 30, 2] > shown[8, 30, 0] + 80
    assert np.array_equal(overlay_influence(grey, np.zeros((2, 4), np.float32), 0.0), grey)


def test_the_curve_and_the_window_follow_the_map(evaluated):
    clip_map = MapSet(evaluated, "motive").get(all_pairs(evaluated)[0])
    assert curve_svg(clip_map.map_FHW).count("<rect") == 5
    frames = clip_map.map_FHW.mean(axis=(1, 2))
    first = int(np.argmax([frames[at : at + 3].mean() for at in range(3)]))
    window = window_of(clip_map, temporal_stride=4, fps=16.0)
    assert window.start_s == (0 if first == 0 else (4 * first - 3) / 16)
    assert window.end_s == (4 * (first + 3) - 3) / 16
    assert window.mean == pytest.approx(float(frames[first : first + 3].mean()), rel=1e-5)
    assert "Best half" in window.sentence()
