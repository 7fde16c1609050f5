"""The motion-weighted loss against the equations written out, place by place."""

from dataclasses import dataclass

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from motive_pipeline.attribution.loss import Draw, location_error, mean_motion_weighted_loss, motion_weighted_loss, noised
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from motive_pipeline.models.conditioning import part_of, repeated
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.models.protocol import Prediction

C, F, H, W = 4, 3, 2, 5


@dataclass
class Linear:
    """A model whose prediction is known: 0.3 z + 0.001 t + the prompt's mean; it records what it was asked."""

    prediction: Prediction = "flow"
    timestep_range = ALL_TIMESTEPS
    alphas_cumprod: torch.Tensor | None = None
    grid = LatentGrid(channels=C, temporal_stride=4, spatial_stride=8)
    transformer = torch.nn.Identity()
    device = torch.device("cpu")
    compute_dtype = torch.float32
    starts_from_frame, predicts_first_frame = False, True
    seen: tuple = ()

    def predict(self, latents_BCFHW, timestep_B, conditioning):
        self.seen = (latents_BCFHW, timestep_B)
        return 0.3 * latents_BCFHW + (0.001 * timestep_B + conditioning["prompt_embeds"].mean(dim=(1, 2))).view(-1, 1, 1, 1, 1)

    def encode_video(self, frames_THWC): ...

    def release_encoders(self): ...
    def decode_latents(self, latents_CFHW): ...
    def encode_prompt(self, prompt): ...
    def encode_first_frame(self, frame_HWC, num_frames): ...
    def generate(self, prompts, *, seeds, num_frames, height, width, num_steps, guidance): ...
    def save(self, folder): ...


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(C, F, H, W, generator=draw),
        "told": {"prompt_embeds": torch.randn(6, 8, generator=draw)},
        "mask": torch.rand(F, H, W, generator=draw),
        "noise": torch.randn(C, F, H, W, generator=draw),
    }


def written_out(model, inputs, *, timestep, mask, literal=False):
    """Equations 15 and 16 with loops."""
    h, eps = inputs["latents"].double(), inputs["noise"].double()
    s = timestep / 1000
    z = (1 - s) * h + s * eps if model.prediction == "flow" else 0.8 * h + 0.6 * eps
    target = eps - h if model.prediction == "flow" else eps
    output = 0.3 * z + 0.001 * timestep + inputs["told"]["prompt_embeds"].double().mean()
    total = 0.0
    for f in range(F):
        frame = 0.0
        for y in range(H):
            for x in range(W):
                error = sum((output[c, f, y, x] - target[c, f, y, x]) ** 2 for c in range(C)) / C
                frame += (mask[f, y, x] if mask is not None else 1.0) * error
        total += frame / (H * W)
    return float(total / F / (F if literal else 1))


@pytest.mark.parametrize("timestep", [250.0, 500.0, 900.0])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("frame_norm", ["per_frame", "paper_literal"])
def test_the_loss_is_equation_16(inputs, timestep, masked, frame_norm):
    model, mask = Linear(), inputs["mask"] if masked else None
    loss = motion_weighted_loss(
        model, inputs["latents"], inputs["told"], mask_FHW=mask, timestep=timestep, noise_CFHW=inputs["noise"], frame_norm=frame_norm
    )
    expected = written_out(model, inputs, timestep=timestep, mask=mask, literal=frame_norm == "paper_literal")
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_model_with_epsilon_prediction_is_noised_by_its_own_schedule(inputs):
    schedule = torch.linspace(0.99, 0.01, 1000)
    schedule[640] = 0.64
    model = Linear("epsilon", schedule)
    loss = motion_weighted_loss(
        model, inputs["latents"], inputs["told"], mask_FHW=inputs["mask"], timestep=640.0, noise_CFHW=inputs["noise"]
    )
    assert float(loss) == pytest.approx(written_out(model, inputs, timestep=640.0, mask=inputs["mask"]), rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("timestep", [0.0, 250.4, 640.0, 998.6, 1000.0])
def test_noise_and_target_are_those_of_diffusers_schedule(inputs, prediction, timestep):
    """CogVideoX's own schedule, whose last alpha is 0; the model is told the timestep that the noise is of."""
    kind = {"epsilon": "epsilon", "v": "v_prediction"}[prediction]
    scheduler = CogVideoXDDIMScheduler(prediction_type=kind, rescale_betas_zero_snr=True, snr_shift_scale=1.0)
    model = Linear(prediction, scheduler.alphas_cumprod)
    latents, noise = inputs["latents"][None], inputs["noise"][None]
    step = torch.tensor([min(round(timestep), 999)])
    noisy, target = noised(model, latents, noise, torch.tensor([timestep]))
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, step), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        target, noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, step), rtol=1e-5, atol=1e-5
    )
    location_error(model, latents, repeated(inputs["told"], 1), timestep_B=torch.tensor([timestep]), noise_BCFHW=noise)
    assert model.seen[1].tolist() == step.tolist()


def test_the_mask_weighs_the_error_and_never_the_input(inputs):
    seen = []
    for mask in (None, inputs["mask"], torch.zeros(F, H, W)):
        model = Linear()
        motion_weighted_loss(model, inputs["latents"], inputs["told"], mask_FHW=mask, timestep=500.0, noise_CFHW=inputs["noise"])
        seen.append(model.seen[0])
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_the_timestep_means_sigma_without_a_shift(inputs):
    model = Linear()
    ones = torch.ones(1, C, F, H, W)
    noisy, target = noised(model, 10 * ones, ones, torch.tensor([250.0]))
    assert torch.allclose(noisy, 7.75 * ones)
    assert torch.allclose(target, -9 * ones)


def test_without_a_mask_it_is_the_training_loss(inputs):
    model, latents, noise = Linear(), inputs["latents"][None], inputs["noise"][None]
    error = location_error(model, latents, repeated(inputs["told"], 1), timestep_B=torch.tensor([300.0]), noise_BCFHW=noise)
    loss = motion_weighted_loss(model, latents[0], inputs["told"], mask_FHW=None, timestep=300.0, noise_CFHW=noise[0])
    assert float(loss) == pytest.approx(float(error.mean()), rel=1e-6)


def test_every_clip_of_a_batch_has_its_own_timestep(inputs):
    model = Linear()
    latents, noise = inputs["latents"].expand(2, -1, -1, -1, -1), inputs["noise"].expand(2, -1, -1, -1, -1)
    told = repeated(inputs["told"], 2)
    both = location_error(model, latents, told, timestep_B=torch.tensor([100.0, 700.0]), noise_BCFHW=noise)
    for number, timestep in enumerate((100.0, 700.0)):
        alone = location_error(model, latents[:1], part_of(told, slice(1)), timestep_B=torch.tensor([timestep]), noise_BCFHW=noise[:1])
        assert torch.allclose(both[number], alone[0])


def test_repeating_a_clip_in_time_leaves_the_loss_per_frame_and_not_the_literal_one(inputs):
    model = Linear()
    twice = {name: torch.cat((inputs[name],) * 2, dim=axis) for name, axis in (("latents", 1), ("noise", 1), ("mask", 0))}
    losses = [
        [
            float(
                motion_weighted_loss(
                    model, v["latents"], inputs["told"], mask_FHW=v["mask"], timestep=500.0, noise_CFHW=v["noise"], frame_norm=norm
                )
            )
            for v in (inputs, twice)
        ]
        for norm in ("per_frame", "paper_literal")
    ]
    assert losses[0][1] == pytest.approx(losses[0][0], rel=1e-5), "the loss must not grow or shrink with the clip's length"
    assert losses[1][1] == pytest.approx(losses[1][0] / 2, rel=1e-5)


def test_draws_are_averaged_over_the_noise_that_all_clips_share(inputs):
    model = Linear()
    draws = [Draw(timestep=500.0, noise_seed=0), Draw(timestep=750.0, noise_seed=3)]
    loss = mean_motion_weighted_loss(model, inputs["latents"], inputs["told"], mask_FHW=inputs["mask"], draws=draws)
    singles = [
        written_out(model, inputs | {"noise": latent_noise(draw.noise_seed, (C, F, H, W))}, timestep=draw.timestep, mask=inputs["mask"])
        for draw in draws
    ]
    assert float(loss) == pytest.approx(sum(singles) / 2, rel=1e-5)
