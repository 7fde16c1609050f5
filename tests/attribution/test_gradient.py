"""The streamed gradient of one clip, against a plain backward pass over the same loss."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.loss import Draw, mean_motion_weighted_loss
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.attribution.projection import Exact, Fastfood
from motive_pipeline.attribution.streaming import selected_parameters
from motive_pipeline.config import Gradient
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.models.conditioning import repeated
from tests.tiny_wan import build_model

DRAWS = [Draw(timestep=500.0, noise_seed=0)]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return build_model()


def clip(seed: int, frames: int = 2):
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(frames, 4, 4, generator=draw)
    return torch.randn(16, frames, 4, 4, generator=draw), {"prompt_embeds": torch.randn(8, 16, generator=draw)}, mask


def plain_gradient(model, inputs, *, names=None, draws=DRAWS) -> np.ndarray:
    """autograd.grad of the loss, all parameters at once, in the order of their names."""
    latents, prompt, mask = inputs
    named = dict(sorted(model.transformer.named_parameters()))
    chosen = [parameter for name, parameter in named.items() if names is None or name in names]
    loss = mean_motion_weighted_loss(model, latents, prompt, mask_FHW=mask, draws=draws)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, chosen)]).numpy()


def test_unprojected_it_is_autograds_gradient_at_unit_length(model):
    for seed in range(3):
        feature = ClipGradient(model, projector=Exact(), draws=DRAWS)(*clip(seed))
        plain = plain_gradient(model, clip(seed))
        assert feature.norm == pytest.approx(np.linalg.norm(plain), rel=1e-5)
        assert np.allclose(feature.gradient_P, plain / np.linalg.norm(plain), atol=1e-6)


def test_several_draws_give_the_gradient_of_their_mean(model):
    draws = [*DRAWS, Draw(timestep=750.0, noise_seed=1)]
    feature = ClipGradient(model, projector=Exact(), draws=draws)(*clip(0))
    plain = plain_gradient(model, clip(0), draws=draws)
    assert np.allclose(feature.gradient_P * feature.norm, plain, atol=1e-6)
    assert feature.norm == pytest.approx(np.linalg.norm(plain), rel=1e-5)


def test_the_mean_of_draws_is_taken_before_the_unit_length_and_after_the_projection(model):
    settings = {"timestep": [250, 750], "num_noises": 2, "noise_seed": 3, "store_dim": 256}
    feature = build_clip_gradient(model, Gradient.model_validate(settings))(*clip(0))
    rows = []
    for timestep in (250.0, 750.0):
        for seed in (3, 4):
            single = build_clip_gradient(model, Gradient(timestep=timestep, noise_seed=seed, store_dim=256))(*clip(0))
            rows.append(single.gradient_P.astype(np.float64) * np.linalg.norm(project_plain(model, timestep, seed)))
    mean = np.mean(rows, axis=0)
    assert np.allclose(feature.gradient_P, mean / np.linalg.norm(mean), atol=1e-5)
    assert feature.norm == pytest.approx(np.linalg.norm(mean), rel=1e-4)


def project_plain(model, timestep: float, seed: int) -> np.ndarray:
    """Fastfood's projection of autograd's gradient, not normalised."""
    inputs = clip(0)
    plain = torch.from_numpy(plain_gradient(model, inputs, draws=[Draw(timestep=timestep, noise_seed=seed)]))
    projector = Fastfood(store_dim=256, seed=0, device=torch.device("cpu"))
    sizes = {name: value.numel() for name, value in sorted(model.transformer.named_parameters())}
    projector.start(sizes)
    for name, part in zip(sizes, plain.split(list(sizes.values())), strict=True):
        projector.add(name, part)
    return projector.finish().entries_P.numpy()


def test_several_draws_hold_no_more_gradients_than_one(model):
    alive = []

    class Watching(Exact):
        def add(self, name, gradient):
            super().add(name, gradient)
            alive.append(sum(parameter.grad is not None for parameter in model.transformer.parameters()))

    ClipGradient(model, projector=Watching(), draws=[*DRAWS, Draw(timestep=750.0, noise_seed=1)])(*clip(0))
    assert len(alive) == 2 * len(list(model.transformer.parameters()))
    assert max(alive) == 1


def test_a_model_that_predicts_noise_has_the_gradient_of_that_loss():
    """Against the epsilon loss written out: z = sqrt(a) h + sqrt(1 - a) eps, target eps, at the schedule's own alpha."""
    scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type="epsilon")
    model = build_model(scheduler=scheduler)
    assert model.prediction == "epsilon"
    latents, prompt, mask = clip(0)
    feature = ClipGradient(model, projector=Exact(), draws=DRAWS)(latents, prompt, mask)
    eps, alpha = latent_noise(0, tuple(latents.shape)), scheduler.alphas_cumprod[500]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * eps
    output = model.predict(noisy[None], torch.tensor([500.0]), repeated(prompt, 1))[0]
    loss = (mask * (output - eps).square().mean(dim=0)).mean()
    named = dict(sorted(model.transformer.named_parameters()))
    plain = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(named.values()))]).numpy()
    assert np.allclose(feature.gradient_P * feature.norm, plain, atol=1e-6)


def test_projected_cosines_are_near_the_exact_ones(model):
    """With P entries the error of a cosine has a standard deviation of at most 1/sqrt(P) (Johnson and Lindenstrauss)."""
    rows = {}
    for name in ("fastfood", "countsketch", "exact"):
        gradient = build_clip_gradient(model, Gradient.model_validate({"projection": name, "store_dim": 2048}))
        rows[name] = np.stack([gradient(*clip(seed)).gradient_P for seed in range(8)])
    exact = rows["exact"] @ rows["exact"].T
    for name in ("fastfood", "countsketch"):
        assert rows[name].shape == (8, 2048)
        assert np.allclose(np.linalg.norm(rows[name], axis=1), 1, atol=1e-6)
        assert np.abs(rows[name] @ rows[name].T - exact).max() < 5 / math.sqrt(2048)


def test_the_same_clip_gives_the_same_bits_whatever_came_before(model):
    gradient = build_clip_gradient(model, Gradient(store_dim=256))
    alone = gradient(*clip(1))
    gradient(*clip(2, frames=5))
    again = gradient(*clip(1))
    fresh = build_clip_gradient(model, Gradient(store_dim=256))(*clip(1))
    for other in (again, fresh):
        assert np.array_equal(other.gradient_P, alone.gradient_P)
        assert other.norm == alone.norm


def test_no_gradient_outlives_its_hook_and_the_model_is_left_as_it_was(model):
    alive = []

    class Watching(Exact):
        def add(self, name, gradient):
            super().add(name, gradient)
            alive.append(sum(parameter.grad is not None for parameter in model.transformer.parameters()))

    before = [parameter.requires_grad for parameter in model.transformer.parameters()]
    ClipGradient(model, projector=Watching(), draws=DRAWS, parameters="attn1")(*clip(0))
    assert max(alive) == 1, "more than one parameter held its gradient at a time"
    assert [parameter.requires_grad for parameter in model.transformer.parameters()] == before
    assert all(parameter.grad is None and not parameter._post_accumulate_grad_hooks for parameter in model.transformer.parameters())


def test_a_pattern_chooses_parameters(model):
    names = {name for name, _ in model.transformer.named_parameters() if "attn2" in name}
    feature = ClipGradient(model, projector=Exact(), draws=DRAWS, parameters=r"blocks\.\d+\.attn2")(*clip(0))
    plain = plain_gradient(model, clip(0), names=names)
    assert np.allclose(feature.gradient_P * feature.norm, plain, atol=1e-6)


@pytest.mark.parametrize(("pattern", "says"), [("lora", "scale_shift_table"), ("(", "regular expression")])
def test_a_pattern_that_selects_nothing_names_examples(model, pattern, says):
    with pytest.raises(MotiveError, match=says):
        selected_parameters(model.transformer, pattern)


def test_checkpointing_computes_each_block_twice_and_changes_no_result(model):
    calls = []
    handle = model.transformer.blocks[0].ffn.register_forward_hook(lambda *_: calls.append(1))
    kept = ClipGradient(model, projector=Exact(), draws=DRAWS)(*clip(0))
    assert len(calls) == 1
    for number, how in enumerate((True, "full"), start=1):
        recomputed = ClipGradient(model, projector=Exact(), draws=DRAWS, checkpointing=how)(*clip(0))
        assert len(calls) == 1 + 2 * number
        assert np.allclose(kept.gradient_P, recomputed.gradient_P, atol=1e-6)
    handle.remove()
    assert not model.transformer.gradient_checkpointing


def test_checkpointing_attends_over_all_tokens_once_and_to_the_prompt_again(model):
    attended = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            if "scaled_dot_product" in str(operation) and "backward" not in str(operation):
                attended.append("all" if args[1].shape[-2] == args[0].shape[-2] else "prompt")
            return operation(*args, **(kwargs or {}))

    def counted(**options):
        attended.clear()
        with Seen():
            ClipGradient(model, projector=Exact(), draws=DRAWS, **options)(*clip(0, frames=5))
        return attended.count("all"), attended.count("prompt")

    blocks = len(model.transformer.blocks)
    assert counted() == (blocks, blocks)
    assert counted(checkpointing=True) == (blocks, 2 * blocks)
    assert counted(checkpointing="full") == (2 * blocks, 2 * blocks)


def test_bfloat16_compute_stays_near_float32():
    exact = ClipGradient(build_model(), projector=Exact(), draws=DRAWS)(*clip(0))
    half_model = build_model()
    half_model.transformer.to(torch.bfloat16)
    half_model.compute_dtype = torch.bfloat16
    half = ClipGradient(half_model, projector=Exact(), draws=DRAWS)(*clip(0))
    assert half.gradient_P.dtype == np.float32
    assert half.gradient_P @ exact.gradient_P > 0.99


def test_a_still_clip_has_a_zero_gradient_and_no_nan(model):
    latents, prompt, mask = clip(0)
    for projector in (Exact(), Fastfood(store_dim=64, seed=0, device=torch.device("cpu"))):
        feature = ClipGradient(model, projector=projector, draws=DRAWS)(latents, prompt, torch.zeros_like(mask))
        assert feature.norm == 0
        assert not feature.gradient_P.any()


def test_a_mask_at_another_scale_leaves_the_row_and_scales_the_norm(model):
    latents, prompt, mask = clip(0)
    gradient = ClipGradient(model, projector=Exact(), draws=DRAWS)
    one, third = gradient(latents, prompt, mask), gradient(latents, prompt, mask / 4)
    assert np.allclose(one.gradient_P, third.gradient_P, atol=1e-5)
    assert third.norm == pytest.approx(one.norm / 4, rel=1e-5)


def test_the_length_of_a_clip_does_not_drive_its_norm(model):
    """A sum over frames would make the norm of nine frames several times that of three; a second 1/F a third of it."""
    norms = {}
    for frame_norm in ("per_frame", "paper_literal"):
        gradient = ClipGradient(model, projector=Exact(), draws=DRAWS, frame_norm=frame_norm)
        norms[frame_norm] = [np.mean([gradient(*clip(seed, frames)).norm for seed in range(4)]) for frames in (3, 9)]
    assert 0.6 < norms["per_frame"][1] / norms["per_frame"][0] < 1.4
    assert norms["paper_literal"][0] == pytest.approx(norms["per_frame"][0] / 3, rel=1e-4)


def test_a_gradient_that_is_not_finite_is_a_rejected_row(model):
    latents, prompt, mask = clip(0)
    latents[0, 0, 0, 0] = float("nan")
    with pytest.raises(RejectRow) as rejected:
        ClipGradient(model, projector=Fastfood(store_dim=64, seed=0, device=torch.device("cpu")), draws=DRAWS)(latents, prompt, mask)
    assert rejected.value.reason == "non_finite_gradient"
    assert not rejected.value.transient


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_clip_that_does_not_fit_in_memory_is_tried_again_another_time(error, where):
    model = build_model()

    def refuse(*_):
        raise error

    first = next(model.transformer.parameters())
    handle = model.transformer.register_forward_pre_hook(refuse) if where == "forward" else first.register_hook(refuse)
    gradient = ClipGradient(model, projector=Exact(), draws=DRAWS)
    with pytest.raises(RejectRow, match="does not fit") as rejected:
        gradient(*clip(0))
    assert rejected.value.reason == "out_of_memory"
    assert rejected.value.transient
    handle.remove()
    assert gradient(*clip(0)).norm > 0, "the next clip must work"


@pytest.mark.usefixtures("as_the_pipeline_sets_torch")
def test_deterministic_kernels_are_demanded_and_done_without_where_there_are_none(caplog):
    """``put_`` has no deterministic kernel on any device."""
    model = build_model()
    strict = []
    plain = build_clip_gradient(model, Gradient(store_dim=256))(*clip(0))

    def forward_hook(*_):
        strict.append(not torch.is_deterministic_algorithms_warn_only_enabled())
        torch.zeros(3).put_(torch.tensor([1]), torch.tensor([2.0]))

    with caplog.at_level("WARNING"):
        gradient = build_clip_gradient(model, Gradient(store_dim=256))
        gradient(*clip(1))
        assert not strict
        handle = model.transformer.register_forward_hook(forward_hook)
        with pytest.warns(UserWarning, match="put_"):
            features = [gradient(*clip(0)) for _ in range(2)]
        handle.remove()
    assert strict == [True, False, False], "asked for once, then the pass runs without"
    assert all(np.array_equal(feature.gradient_P, plain.gradient_P) for feature in features)
    assert torch.is_deterministic_algorithms_warn_only_enabled(), "torch is left as it was"
    [record] = caplog.records
    assert "put_" in record.message
    assert "last bits" in record.message


@pytest.mark.usefixtures("as_the_pipeline_sets_torch")
def test_deterministic_kernels_need_not_be_demanded(caplog):
    model = build_model()
    strict = []
    handle = model.transformer.register_forward_hook(lambda *_: strict.append(not torch.is_deterministic_algorithms_warn_only_enabled()))
    for demanded in (True, False):
        build_clip_gradient(model, Gradient(store_dim=256, deterministic=demanded))(*clip(0))
    handle.remove()
    assert strict == [True, False]
    assert not caplog.records


def test_other_runtime_errors_are_not_swallowed():
    model = build_model()
    latents, prompt, mask = clip(0)
    with pytest.raises(RuntimeError):
        ClipGradient(model, projector=Exact(), draws=DRAWS)(latents[:3], prompt, mask)
