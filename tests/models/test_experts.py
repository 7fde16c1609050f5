"""Models with two experts (Wan 2.2 A14B): each is attributed, trained and measured at the timesteps that it is used at, and at no others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.loss import attribution_draws, held_out_draws
from motive_pipeline.attribution.second_moments import warm_up_draw
from motive_pipeline.config import Finetune, Gradient
from motive_pipeline.config.timesteps import ALL_TIMESTEPS, TimestepRange, expert_range
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.evaluation.audit.passes import even_timesteps
from motive_pipeline.models.folder import encoders_hash, timestep_range
from motive_pipeline.models.load import load_attributed_model, load_model
from motive_pipeline.training.finetune import publish_checkpoint
from motive_pipeline.training.loop import finetune, step_draw
from tests.gradient_fixtures import workspace
from tests.tiny_wan import build_pipeline, build_transformer
from tests.training_fixtures import BY_SHAPE, CLIPS, SETTINGS, make_workspace, state

HIGH, LOW = TimestepRange(low=875.0), TimestepRange(high=875.0)
SIZE = {"num_layers": 2, "heads": 2, "head_dim": 12, "ffn_dim": 48}


@pytest.fixture(scope="module")
def a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with two experts of different weights, as Wan 2.2 A14B is laid out."""
    folder = tmp_path_factory.mktemp("model") / "a14b"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        second = build_transformer(**SIZE)
    build_pipeline(transformer_2=second, boundary_ratio=0.875, **SIZE).save_pretrained(folder)
    return folder


def of_expert(folder: Path, expert: str, tmp_path: Path, **sections):
    return make_workspace(tmp_path, folder, root=expert, model_settings={"expert": expert}, **sections)


def test_the_ranges_meet_at_the_boundary_and_cover_all() -> None:
    assert expert_range(is_second=False, boundary_ratio=0.875) == HIGH
    assert expert_range(is_second=True, boundary_ratio=0.875) == LOW
    assert expert_range(is_second=False, boundary_ratio=None) == ALL_TIMESTEPS
    assert (875.0 in HIGH, 875.0 in LOW, 999.9 in HIGH, 0.0 in LOW) == (True, False, True, True)


def test_the_model_on_disk_and_the_loaded_one_agree(a14b: Path, tmp_path: Path) -> None:
    for expert, within in (("transformer", HIGH), ("transformer_2", LOW)):
        ws = of_expert(a14b, expert, tmp_path)
        assert timestep_range(ws.config.model) == within
        assert load_model(ws.config.model, threads=1).timestep_range == within


def test_auto_is_500_where_the_expert_has_it_and_else_the_middle() -> None:
    assert [Gradient().timesteps(within) for within in (ALL_TIMESTEPS, LOW, HIGH)] == [(500,), (500,), (937.5,)]


def test_draws_are_spread_over_the_experts_part_of_the_trainings_timesteps() -> None:
    """The u of the training's law, t = 1000 s u / (1 + (s - 1) u), at the middles of equal parts of the expert's share of (0, 1)."""
    gradient = Gradient(draws=4, draw_shift=3.0)
    for within in (HIGH, LOW, ALL_TIMESTEPS):
        timesteps = [draw.timestep for draw in attribution_draws(gradient, within)]
        assert all(timestep in within for timestep in timesteps)
        first, last = (x / (3 - 2 * x) for x in (within.low / 1000, within.high / 1000))
        np.testing.assert_allclose(
            [x / (3 - 2 * x) for x in np.array(timesteps) / 1000], first + (last - first) * np.array([1, 3, 5, 7]) / 8
        )


@pytest.mark.parametrize("within", [HIGH, LOW])
def test_held_out_draws_audit_and_warm_up_stay_inside(within: TimestepRange) -> None:
    held_out = [draw.timestep for draw in held_out_draws(8, within)]
    width = within.high - within.low
    np.testing.assert_allclose(held_out, within.low + width * (np.arange(8) + 0.5) / 8)
    assert all(timestep in within for timestep in even_timesteps(within))
    warm_up = np.array([warm_up_draw(0, f"{number:016x}", within).timestep for number in range(200)])
    assert stats.kstest((warm_up - within.low) / width, "uniform").pvalue > 0.01


@pytest.mark.parametrize("further", [{}, {"sampling": "logit_normal"}, {"timesteps": "stratified"}])
def test_training_draws_an_experts_timesteps_as_it_would_those_of_all_that_lie_there(further: dict) -> None:
    settings = Finetune.model_validate({"batch_size": 4000, "shift": 3.0} | further)
    everywhere = np.concatenate([step_draw(0, step, settings).timestep_B.numpy() for step in range(10)])
    for within in (HIGH, LOW):
        drawn = step_draw(0, 0, settings, within).timestep_B.numpy()
        # float32 rounds a draw next to the boundary onto it
        assert within.low - 1e-3 <= drawn.min()
        assert drawn.max() <= within.high + 1e-3
        inside = everywhere[(everywhere >= within.low) & (everywhere < within.high)]
        assert stats.ks_2samp(drawn, inside).pvalue > 0.01
    assert np.array_equal(step_draw(0, 0, settings, ALL_TIMESTEPS).timestep_B, step_draw(0, 0, settings).timestep_B)


def test_the_transformer_sees_no_other_timesteps(a14b: Path, tmp_path: Path) -> None:
    for expert, within in (("transformer", HIGH), ("transformer_2", LOW)):
        ws = of_expert(a14b, expert, tmp_path)
        model = load_model(ws.config.model, threads=1, path=a14b)
        seen: list[float] = []
        model.transformer.register_forward_pre_hook(
            lambda _m, _a, arguments, seen=seen: seen.extend(arguments["timestep"].flatten().tolist()), with_kwargs=True
        )
        finetune(model, BY_SHAPE, CLIPS.__getitem__, SETTINGS, training=0)
        latents, prompt = CLIPS["a"]
        build_clip_gradient(model, Gradient(store_dim=256))(latents, prompt, None)
        assert len(seen) == SETTINGS.steps * SETTINGS.batch_size + 1
        assert all(within.low - 1e-3 <= timestep <= within.high for timestep in seen)


def test_a_timestep_that_the_expert_never_sees_is_refused_before_any_work(a14b: Path, folder: Path) -> None:
    def settings(expert: str, **gradient):
        return workspace(folder, model={"path": str(a14b), "expert": expert}, gradient=gradient)

    with pytest.raises(
        MotiveError,
        match=r"gradient\.timestep = 500 \(of the variant motive\): the model uses its transformer at timesteps from 875 to below 1000",
    ):
        encoders_hash(settings("transformer", timestep=500))
    with pytest.raises(MotiveError, match=r"gradient\.draw_timesteps = 900 .*transformer_2 at timesteps from 0 to below 875"):
        encoders_hash(settings("transformer_2", draws=2, draw_timesteps=[100, 900]))
    for expert in ("transformer", "transformer_2"):
        assert encoders_hash(settings(expert))
        assert encoders_hash(settings(expert, draws=4))


def test_a_variant_may_take_the_other_experts_gradients(a14b: Path, folder: Path) -> None:
    ws = workspace(folder, model={"path": str(a14b)}, variants={"low_noise": {"expert": "transformer_2"}})
    main, other = (load_attributed_model(ws.config.of_variant(name)) for name in ("motive", "low_noise"))
    assert (main.timestep_range, other.timestep_range) == (HIGH, LOW)
    assert state(main) != state(other)
    fingerprints = {ws.config.row_fingerprint("gradient", name) for name in ("motive", "low_noise")}
    assert len(fingerprints) == 2


def test_the_other_experts_gradients_have_no_second_moments(a14b: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"gradient\.expert: transformer_2 \(of low_noise\) has no second moments"):
        workspace(folder, model={"path": str(a14b)}, variants={"low_noise": {"expert": "transformer_2", "preconditioner": "adam"}})


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["all weights", "adapter"])
def test_sampling_uses_the_trained_expert_beside_the_other_one_as_it_is(a14b: Path, tmp_path: Path, lora: dict | None) -> None:
    base = {name: state_of(a14b, name, tmp_path / "base") for name in ("transformer", "transformer_2")}
    for expert, other in (("transformer", "transformer_2"), ("transformer_2", "transformer")):
        ws = of_expert(a14b, expert, tmp_path, lora=lora)
        loaded = load_model(ws.config.model, threads=1, path=publish_checkpoint(ws, "motive").path)
        trained, kept = getattr(loaded.pipeline, expert), getattr(loaded.pipeline, other)
        assert loaded.transformer is trained
        assert weights(trained) != base[expert] or lora
        assert any(".lora_" in name for name, _ in trained.named_parameters()) == bool(lora)
        assert weights(kept) == base[other]
        used: dict[str, list[float]] = {expert: [], other: []}
        for name, module in ((expert, trained), (other, kept)):
            module.register_forward_pre_hook(
                lambda _m, _a, arguments, seen=used[name]: seen.append(float(arguments["timestep"][0])), with_kwargs=True
            )
        loaded.generate(["a red circle moves left"], seeds=[0], num_frames=5, height=32, width=32, num_steps=6, guidance=1.0)
        assert min(used["transformer"]) >= 875 > max(used["transformer_2"])


def weights(transformer: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.float().numpy().tobytes() for name, value in transformer.state_dict().items() if ".lora_" not in name}


def state_of(folder: Path, expert: str, tmp_path: Path) -> dict[str, bytes]:
    tmp_path.mkdir(exist_ok=True)
    return state(load_model(of_expert(folder, expert, tmp_path).config.model, threads=1))
