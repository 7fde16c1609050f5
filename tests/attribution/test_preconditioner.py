"""Adam's preconditioner: its formula, its second moments, and the optimizer states they are read from."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from motive_pipeline.attribution.adam_state import load_adam_state
from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.loss import Draw, motion_weighted_loss
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.attribution.preconditioner import Preconditioned, adam_scales
from motive_pipeline.attribution.projection import Exact, Fastfood
from motive_pipeline.attribution.second_moments import warm_up, warm_up_clips, warm_up_draw
from motive_pipeline.config import Gradient
from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from motive_pipeline.errors import MotiveError
from tests.attribution.test_gradient import DRAWS, clip, plain_gradient
from tests.tiny_wan import build_model

EPS = 1e-3


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return build_model()


@pytest.fixture(scope="module")
def parameters(model):
    return dict(model.transformer.named_parameters())


def random_moments(parameters, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(value.shape, generator=draw) ** 4 for name, value in parameters.items()}


def flat(tensors) -> np.ndarray:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)]).double().numpy()


def latents(clip_id: str):
    """Latents and prompt of a clip, whose id ends in the seed."""
    return clip(int(clip_id[-1]))[:2]


def test_scales_are_one_over_the_root_plus_a_share_of_all_roots():
    moments = {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor([[9.0], [1e-6]])}
    rms = math.sqrt((4 + 9 + 1e-6) / 4)
    scales = adam_scales(moments, eps=0.1)
    for name, moment in moments.items():
        for scale, value in zip(scales[name].flatten().tolist(), moment.flatten().tolist(), strict=True):
            assert scale == pytest.approx(1 / (math.sqrt(value) + 0.1 * rms), rel=1e-6)
        assert scales[name].shape == moment.shape
    assert torch.equal(adam_scales({"a": torch.zeros(3)}, eps=0.1)["a"], torch.ones(3)), "no moment: nothing to even out"


def test_the_feature_is_the_gradient_times_its_scales(model, parameters):
    moments = random_moments(parameters)
    expected = plain_gradient(model, clip(0)) / (np.sqrt(flat(moments)) + EPS * math.sqrt(flat(moments).mean()))
    preconditioned = Preconditioned(Exact(), adam_scales(moments, eps=EPS))
    found = ClipGradient(model, projector=preconditioned, draws=DRAWS)(*clip(0))
    np.testing.assert_allclose(found.gradient_P * found.norm, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert found.norm == pytest.approx(np.linalg.norm(expected), rel=1e-4)


def test_a_factor_on_the_loss_cancels(model, parameters):
    moments = random_moments(parameters)
    rows = [
        build_clip_gradient(
            model, Gradient(store_dim=256), scales=adam_scales({name: moment * factor for name, moment in moments.items()}, eps=EPS)
        )(*clip(0))
        for factor in (1.0, 1e-8)
    ]
    np.testing.assert_allclose(rows[0].gradient_P, rows[1].gradient_P, atol=1e-5)


def test_scales_reach_every_projection_through_the_config(model, parameters):
    scales = adam_scales(random_moments(parameters), eps=EPS)
    plain = build_clip_gradient(model, Gradient(store_dim=2048))(*clip(0))
    found = build_clip_gradient(model, Gradient(store_dim=2048), scales=scales)(*clip(0))
    exact = build_clip_gradient(model, Gradient(projection="exact"), scales=scales)(*clip(0))
    assert found.norm == pytest.approx(exact.norm, rel=1e-5)
    assert abs(plain.gradient_P @ found.gradient_P) < 0.9
    again = build_clip_gradient(model, Gradient(store_dim=2048), scales=scales)(*clip(1))
    other = build_clip_gradient(model, Gradient(projection="exact"), scales=scales)(*clip(1))
    assert abs(found.gradient_P @ again.gradient_P - exact.gradient_P @ other.gradient_P) < 5 / math.sqrt(2048)


def test_the_warm_up_is_the_mean_square_of_single_gradients(model, parameters):
    """Against a loop of autograd.grad over the clips, each at its own timestep and noise, without a mask."""
    found, used = warm_up(model, latents, ["c3", "a1", "b2"], parameters="all", seed=4, checkpointing=False)
    assert used == ["a1", "b2", "c3"]
    expected = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for clip_id in used:
        draw = warm_up_draw(4, clip_id, ALL_TIMESTEPS)
        latents_CFHW, conditioning = latents(clip_id)
        noise_CFHW = latent_noise(draw.noise_seed, tuple(latents_CFHW.shape))
        loss = motion_weighted_loss(
            model, latents_CFHW, conditioning, mask_FHW=None, timestep=draw.timestep, noise_CFHW=noise_CFHW, frame_norm="per_frame"
        )
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            expected[name] += gradient.square() / 3
    for name in parameters:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-12)
    again, _ = warm_up(model, latents, ["a1", "b2", "c3"], parameters="all", seed=4, checkpointing=False)
    assert all(torch.equal(found[name], again[name]) for name in found), "equal inputs, equal bits"


def test_a_clip_without_a_finite_gradient_leaves_no_trace_in_the_warm_up(model):
    def broken(clip_id):
        latents_CFHW, conditioning = latents(clip_id)
        return (torch.full_like(latents_CFHW, float("inf")) if clip_id == "b2" else latents_CFHW), conditioning

    good, _ = warm_up(model, latents, ["a1", "c3"], parameters="attn1", seed=4, checkpointing=False)
    found, used = warm_up(model, broken, ["a1", "b2", "c3"], parameters="attn1", seed=4, checkpointing=False)
    assert used == ["a1", "c3"]
    assert all(torch.equal(found[name], good[name]) for name in good)


@pytest.mark.usefixtures("as_the_pipeline_sets_torch")
def test_the_warm_up_demands_deterministic_kernels_and_begins_anew_where_there_are_none(model, caplog):
    """``put_`` has none; it comes when the sums hold the first clip already."""
    expected, _ = warm_up(model, latents, ["a1", "b2"], parameters="attn1", seed=4, checkpointing=False)
    strict = []

    def forward_hook(*_):
        strict.append(not torch.is_deterministic_algorithms_warn_only_enabled())
        if len(strict) > 1:
            torch.zeros(3).put_(torch.tensor([1]), torch.tensor([2.0]))

    handle = model.transformer.register_forward_hook(forward_hook)
    with caplog.at_level("WARNING"), pytest.warns(UserWarning, match="put_"):
        found, used = warm_up(model, latents, ["a1", "b2"], parameters="attn1", seed=4, checkpointing=False)
    handle.remove()
    assert strict == [True, True, False, False]
    assert used == ["a1", "b2"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "last bits" in caplog.text


def test_the_clips_of_the_warm_up_and_their_draws_are_a_function_of_seed_and_id():
    ids = [f"{number:016x}" for number in range(50)]
    chosen = warm_up_clips(ids, count=8, seed=0)
    assert warm_up_clips(list(reversed(ids)), count=8, seed=0) == chosen == sorted(chosen)
    assert warm_up_clips(ids, count=8, seed=1) != chosen
    assert len(set(chosen)) == 8
    timesteps = [warm_up_draw(0, clip_id, ALL_TIMESTEPS).timestep for clip_id in ids]
    assert 0 < min(timesteps) < 200 < 800 < max(timesteps) < 1000
    assert len({warm_up_draw(0, clip_id, ALL_TIMESTEPS).noise_seed for clip_id in ids}) == 50
    assert warm_up_draw(0, ids[0], ALL_TIMESTEPS) == warm_up_draw(0, ids[0], ALL_TIMESTEPS) != warm_up_draw(1, ids[0], ALL_TIMESTEPS)


# ---- the optimizer's saved state


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(3, 2), torch.nn.Linear(2, 3, bias=False)

    def forward(self, x):
        return self.two(self.one(x))


@pytest.fixture
def trained():
    """A model, and the AdamW that has trained it for three steps."""
    torch.manual_seed(0)
    module = Small()
    optimizer = torch.optim.AdamW(module.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
    return module, optimizer


def moments_of(module, optimizer) -> dict[str, torch.Tensor]:
    return {name: optimizer.state[parameter]["exp_avg_sq"] for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("kind", ["by number", "by name", "safetensors", "safetensors with a suffix"])
def test_second_moments_are_read_from_an_optimizers_state(trained, tmp_path, kind):
    module, optimizer = trained
    expected, named = moments_of(module, optimizer), dict(module.named_parameters())
    file = tmp_path / ("state.safetensors" if kind.startswith("safetensors") else "optimizer.bin")
    if kind == "by number":
        torch.save(optimizer.state_dict(), file)
    elif kind == "by name":
        states = {f"module.{name}": optimizer.state[parameter] for name, parameter in named.items()}
        torch.save({"state": states, "param_groups": [{"params": list(states)}]}, file)
    else:
        suffix = ".exp_avg_sq" if kind.endswith("suffix") else ""
        save_file({f"{name}{suffix}": moment for name, moment in expected.items()}, file)
    chosen = {name: value for name, value in named.items() if "weight" in name}
    found = load_adam_state(file, named, chosen)
    assert list(found) == list(chosen)
    for name in chosen:
        assert torch.equal(found[name], expected[name])
        assert found[name].dtype == torch.float32


def write_state(module, optimizer, file, kind) -> None:
    state = optimizer.state_dict()
    if kind == "groups":
        state["param_groups"] = [{"params": [0]}, {"params": [1, 2]}]
    elif kind == "sgd":
        state["state"] = {number: {"momentum_buffer": entry["exp_avg"]} for number, entry in state["state"].items()}
    elif kind == "shape":
        state["state"][0]["exp_avg_sq"] = torch.ones(5)
    elif kind == "negative":
        state["state"][0]["exp_avg_sq"][0, 0] = -1.0
    elif kind == "absent":
        del state["state"][2]
    elif kind == "code":
        state["state"][0]["exp_avg_sq"] = Small
    torch.save([1] if kind == "list" else state, file)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("groups", "which is which cannot be told"),
        ("sgd", "another optimizer"),
        ("shape", r"one\.weight.*another model"),
        ("negative", "negative or infinite"),
        ("absent", r"no second moment for 1 of 3 parameters, such as two\.weight"),
        ("code", "only tensors and numbers"),
        ("list", "not an optimizer's state_dict"),
    ],
)
def test_a_state_that_cannot_be_used_says_why(trained, tmp_path, kind, says):
    module, optimizer = trained
    file = tmp_path / "optimizer.pt"
    write_state(module, optimizer, file, kind)
    named = dict(module.named_parameters())
    with pytest.raises(MotiveError, match=rf"influence\.adam_state.*(?s:.*){says}"):
        load_adam_state(file, named, named)


@pytest.mark.parametrize("name", ["none.bin", "none.safetensors"])
def test_a_missing_or_broken_file_is_named(tmp_path, name):
    for write in (False, True):
        if write:
            (tmp_path / name).write_bytes(b"not a state")
        with pytest.raises(MotiveError, match=rf"influence\.adam_state.*{name}"):
            load_adam_state(tmp_path / name, {}, {})


def test_fastfood_takes_preconditioned_gradients_in_any_order(parameters):
    scales = adam_scales(random_moments(parameters), eps=EPS)
    gradients = random_moments(parameters, seed=1)
    found = []
    for names in (list(gradients), sorted(gradients, reverse=True)):
        projector = Preconditioned(Fastfood(store_dim=64, seed=0, device=torch.device("cpu")), scales)
        projector.start({name: value.numel() for name, value in gradients.items()})
        for name in names:
            projector.add(name, gradients[name])
        found.append(projector.finish().entries_P)
    assert torch.equal(*found)


def test_draws_of_the_warm_up_are_not_those_of_the_gradients():
    assert warm_up_draw(0, "0" * 16, ALL_TIMESTEPS) != Draw(timestep=500.0, noise_seed=0)
