"""The causal check compares like with like."""

import numpy as np
import pytest
import torch

from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.causal import drop_percent


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
    from motive_pipeline.models.conditioning import repeated
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
            velocity = model.predict(noisy[None].float(), torch.tensor([row["timestep"]], dtype=torch.float32), repeated(prompt, 1))[0]
        error = (velocity - (noise - latents)).square().mean(0)
        assert row[name] == pytest.approx(float((mask * error).mean()), rel=1e-4)
        assert row[f"plain_{name}"] == pytest.approx(float(error.mean()), rel=1e-4)


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
