"""The causal check compares like with like, on draws that attribution never used."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motive_pipeline.attribution.held_out import held_out_draws
from motive_pipeline.config import Gradient
from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.causal import drop_percent


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 40])
@pytest.mark.parametrize("timestep", [500.0, 62.5, 100.0])
def test_no_draw_is_one_of_attribution(count, timestep):
    draws = held_out_draws(Gradient(timestep=timestep, noise_seed=3), count)
    assert len(draws) == count
    assert all(0 < draw.timestep < 1000 and draw.timestep != timestep and draw.noise_seed != 3 for draw in draws)
    assert len({draw.timestep for draw in draws}) == count
    assert len({draw.noise_seed for draw in draws}) == count


@settings(deadline=None)
@given(
    count=st.integers(1, 12),
    quarters=st.sets(st.integers(1, 95), max_size=40),
    noise_seed=st.sampled_from([0, 7, 2_000_000]),
)
def test_no_draw_is_one_of_attribution_however_many_timesteps_that_uses(count, quarters, noise_seed):
    """The timesteps of attribution are the check's own ones and those between, where a draw that has to move might land."""
    used = [1000 * quarter / (8 * count) for quarter in quarters if quarter < 8 * count] or [500.0]
    gradient = Gradient(timestep=used, noise_seed=noise_seed, num_noises=1000)
    draws = held_out_draws(gradient, count)
    attribution = {gradient.noise_seed + number for number in range(gradient.num_noises)}
    assert all(abs(draw.timestep - own) > 1e-6 for draw in draws for own in gradient.timesteps)
    assert not attribution & {draw.noise_seed for draw in draws}
    for index, draw in enumerate(draws):
        assert abs(draw.timestep - 1000 * (index + 0.5) / count) < 500 / count, "nearer to its own place than to another"


def test_draws_are_spread_evenly_and_stay_the_same():
    assert [draw.timestep for draw in held_out_draws(Gradient(timestep=400), 4)] == [125, 375, 625, 875]
    assert held_out_draws(Gradient(), 8) == held_out_draws(Gradient(), 8)


def test_the_drop_is_relative_to_the_querys_own_mean_loss():
    base = np.array([[1.0, 3.0], [10.0, 30.0]])
    trained = np.array([[1.0, 2.0], [9.0, 31.0]])
    drop = drop_percent(base, trained, ["a", "b"])
    assert drop == pytest.approx(np.array([[0, 50], [5, -5]]))
    assert drop.mean(1) == pytest.approx(100 * (1 - trained.mean(1) / base.mean(1)))


def test_a_query_whose_mask_is_zero_stops_the_check_and_is_named():
    with pytest.raises(GateFailed, match=r"still\.mp4"):
        drop_percent(np.array([[1.0], [0.0]]), np.array([[1.0], [0.0]]), ["moving.mp4", "still.mp4"])


def test_losses_are_those_of_the_slow_formula(evaluated):
    """Oracle: mean over places of mask times squared error of the velocity, for one query and one draw, written out."""
    from motive_pipeline.attribution.noise import latent_noise
    from motive_pipeline.latents.stage import LatentSet
    from motive_pipeline.models.load import load_model
    from motive_pipeline.motion.stage import MaskSet
    from motive_pipeline.training.finetune import checkpoint_folder

    causal = evaluated.published("eval_scores/motive").table("causal")
    row = causal.iloc[-1]
    latents, prompt = LatentSet(evaluated, "query").get(row["query_id"])
    mask = MaskSet(evaluated, "query").get(row["query_id"])
    noise = latent_noise(int(row["noise_seed"]), tuple(latents.shape))
    sigma = row["timestep"] / 1000
    folder = checkpoint_folder(evaluated.published("finetuned_checkpoint/motive").path, 0)
    for name, path in (("base_loss", None), ("loss", folder)):
        model = load_model(evaluated.config.model, threads=1, path=path)
        with torch.no_grad():
            noisy = (1 - sigma) * latents + sigma * noise
            velocity = model.predict(noisy[None].float(), torch.tensor([row["timestep"]], dtype=torch.float32), prompt[None])[0]
        expected = (mask * (velocity - (noise - latents)).square().mean(0)).mean()
        assert row[name] == pytest.approx(float(expected), rel=1e-4)


def test_only_held_out_queries_are_used_and_every_pair_once(evaluated):
    queries = evaluated.published("query_catalog").table("queries").set_index("query_id")["role"]
    causal = evaluated.published("eval_scores/full").table("causal")
    assert set(queries.loc[causal["query_id"]]) == {"held_out"}
    assert (causal["metric"] == "held_out_loss_drop").all()
    assert len(causal) == (queries == "held_out").sum() * evaluated.config.evaluate.held_out_draws
    assert not causal.duplicated(["training", "query_id", "draw"]).any()


def test_the_base_model_has_not_moved_and_training_has(evaluated):
    base = evaluated.published("eval_scores/base").table("causal")
    assert (base["drop_percent"] == 0).all()
    assert (base["base_loss"] > 0).all()
    full = evaluated.published("eval_scores/full").table("causal")
    assert (full["base_loss"].to_numpy() == base["base_loss"].to_numpy()).all()
    assert (full["drop_percent"] != 0).all()


def test_without_held_out_queries_the_check_says_that_it_is_in_sample(evaluated, tmp_path, tiny_model):
    from motive_pipeline.evaluation.causal import causal_check
    from tests.eval_fixtures import copied, republish

    ws = copied(evaluated, tmp_path, tiny_model)
    queries = ws.published("query_catalog").table("queries")
    republish(ws, "query_catalog", queries=queries[queries["role"] == "query"])
    causal, _ = causal_check(ws, "base")
    assert set(causal["metric"]) == {"in_sample_loss_drop"}
    assert set(causal["query_id"]) == set(queries.loc[queries["role"] == "query", "query_id"])
