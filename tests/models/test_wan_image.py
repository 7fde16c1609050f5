"""Image-to-video models of Wan against diffusers' own pipeline, on random ones: what they are told, and what that changes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.loss import Draw, errors_of_draws, mean_motion_weighted_loss
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.config import Finetune, Gradient, Model, load_config
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.conditioning import repeated
from motive_pipeline.models.folder import encoders_hash, input_rules, require_first_frames, task
from motive_pipeline.models.load import load_model
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.models.tasks import wan_tasks
from motive_pipeline.models.wan_image import WanImageModel
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.loop import finetune
from tests.tiny_wan_image import KINDS, TOKENS, image_model, save_image_model
from tests.training_fixtures import make_workspace

SIZE = {"num_frames": 9, "height": 64, "width": 96}
PROMPT = "a red circle moves right"


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> WanImageModel:
    torch.set_num_threads(1)
    return image_model(request.param)


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def told(model: WanImageModel, seed: int = 0) -> dict[str, torch.Tensor]:
    return {**model.encode_prompt(PROMPT), **model.encode_first_frame(frame(seed), 9)}


def latents(model: WanImageModel) -> torch.Tensor:
    return torch.randn(model.grid.shape(9, 64, 96), generator=torch.Generator().manual_seed(0))


def calls_of(transformer: torch.nn.Module, run: Callable[[], Any]) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    hook = transformer.register_forward_pre_hook(lambda _, __, given: seen.append(given), with_kwargs=True)
    try:
        run()
    finally:
        hook.remove()
    return seen


def test_it_is_a_video_model(model: WanImageModel) -> None:
    assert isinstance(model, VideoModel)
    assert model.starts_from_frame


def test_predict_gives_the_transformer_the_same_bits_as_diffusers_pipeline(model: WanImageModel) -> None:
    """One step of the pipeline, called as a user calls it: with an image and a prompt, from noise that is given."""
    noise = latents(model)[None]

    def sample() -> None:
        model.pipeline(
            image=Image.fromarray(frame()),
            prompt=PROMPT,
            latents=noise,
            num_inference_steps=1,
            guidance_scale=1.0,
            max_sequence_length=TOKENS,
            output_type="latent",
            **SIZE,
        )

    [theirs] = calls_of(model.transformer, sample)
    conditioning = repeated(told(model), 1)
    [ours] = calls_of(
        model.transformer, lambda: model.predict(noise, model.pipeline.scheduler.timesteps[:1].to(torch.float32), conditioning)
    )
    for name in ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"):
        if theirs.get(name) is None:
            assert ours.get(name) is None
        else:
            assert torch.equal(ours[name].to(theirs[name].dtype), theirs[name]), name
    assert theirs["hidden_states"].shape[1] == (36 if model.predicts_first_frame else 16)
    assert ("encoder_hidden_states_image" in ours) == model.embeds_image


def test_another_first_frame_changes_loss_and_gradient(model: WanImageModel) -> None:
    draws = [Draw(timestep=950.0, noise_seed=0)]
    same, other = (
        mean_motion_weighted_loss(model, latents(model), told(model, seed), mask_FHW=None, draws=draws).item() for seed in (0, 1)
    )
    assert same != other
    gradient = build_clip_gradient(model, Gradient(store_dim=256, timestep=950.0))
    mask = torch.ones(latents(model).shape[1:])
    first, second = (gradient(latents(model), told(model, seed), mask).gradient_P for seed in (0, 1))
    assert first @ first == pytest.approx(1, abs=1e-5)
    assert np.abs(first - second).max() > 1e-5


@pytest.mark.parametrize("image", [0, 1])
def test_clip_embeddings_reach_the_prediction(image: int) -> None:
    model = image_model("wan2.1")
    given = told(model)
    changed = {**given, "image_embeds": told(model, image)["image_embeds"]}
    noisy, timestep = latents(model)[None], torch.tensor([950.0])
    with torch.no_grad():
        one, other = (model.predict(noisy, timestep, repeated(each, 1)) for each in (given, changed))
    assert torch.equal(one, other) == (image == 0)


def test_no_loss_is_taken_where_the_frame_is_given() -> None:
    """TI2V: the loss is the mean over the later frames, whatever the clip's own first latent frame is."""
    model = image_model("ti2v")
    clip, draws = latents(model), [Draw(timestep=600.0, noise_seed=1)]
    other = clip.clone()
    other[:, 0] += 1
    error, unchanged = (errors_of_draws(model, each, told(model), draws) for each in (clip, other))
    assert (error[:, 0] == 0).all()
    assert torch.equal(error, unchanged)
    seen: list[torch.Tensor] = []
    hook = model.transformer.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    plain = mean_motion_weighted_loss(model, clip, told(model), mask_FHW=None, draws=draws)
    hook.remove()
    target = latent_noise(1, tuple(clip.shape)) - clip
    torch.testing.assert_close(plain, (seen[0][0] - target)[:, 1:].square().mean())
    with pytest.raises(MotiveError, match=r"nothing is left to predict.*clips\.num_frames"):
        errors_of_draws(model, clip[:, :1], told(model), draws)


def test_text_to_video_predicts_every_frame() -> None:
    model = image_model("a14b")
    error = errors_of_draws(model, latents(model), told(model), [Draw(timestep=950.0, noise_seed=1)])
    assert (error > 0).all()


def test_videos_start_from_their_own_frames_and_not_from_their_batch(model: WanImageModel) -> None:
    call = {"num_steps": 2, "guidance": 2.0, **SIZE}
    both = model.generate([PROMPT, "blue"], seeds=[1, 2], first_frames=[frame(0), frame(1)], **call)
    [alone] = model.generate(["blue"], seeds=[2], first_frames=[frame(1)], **call)
    [elsewhere] = model.generate(["blue"], seeds=[2], first_frames=[frame(0)], **call)
    assert both[0].shape == (9, 64, 96, 3)
    assert np.array_equal(both[1], alone)
    assert not np.array_equal(alone, elsewhere)


def test_sampling_is_diffusers_own(model: WanImageModel) -> None:
    [ours] = model.generate([PROMPT], seeds=[3], first_frames=[frame()], num_steps=2, guidance=2.0, **SIZE)
    theirs = model.pipeline(
        image=Image.fromarray(frame()),
        prompt=PROMPT,
        negative_prompt="",
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=2,
        guidance_scale=2.0,
        max_sequence_length=TOKENS,
        output_type="np",
        **SIZE,
    ).frames[0]
    assert np.array_equal(ours, np.round(theirs * 255).astype(np.uint8))


def test_training_drops_captions_and_keeps_first_frames(model: WanImageModel) -> None:
    """With every caption dropped, the transformer sees the empty prompt and each clip's own first frame."""
    clips = {"a": (latents(model), told(model, 0)), "b": (latents(model), told(model, 1))}
    settings = Finetune(steps=1, batch_size=2, caption_dropout=0.999, learning_rate=1e-4)
    weights = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    [seen] = calls_of(
        model.transformer,
        lambda: finetune(model, {tuple(latents(model).shape[1:]): ["a", "b"]}, clips.__getitem__, settings, training=0),
    )
    assert torch.equal(seen["encoder_hidden_states"][0], model.encode_prompt("")["prompt_embeds"])
    given = seen["hidden_states"][:, -16:, : 3 if model.predicts_first_frame else 1]
    assert {each.numpy().tobytes() for each in given} == {clip[1]["first_frame_latents"].numpy().tobytes() for clip in clips.values()}
    assert any(not torch.equal(weights[name], value) for name, value in model.transformer.state_dict().items())
    model.transformer.load_state_dict(weights)


def settings(folder: Path, **changed: Any) -> Model:
    return Model(**({"path": str(folder), "dtype": "float32", "device": "cpu", "max_prompt_tokens": TOKENS} | changed))


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, save_image_model(request.param, tmp_path_factory.mktemp("image") / request.param)


def test_the_folder_says_the_task_and_the_config_where_it_does_not(saved: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = saved
    assert task(settings(folder)) == ("text_to_video" if kind == "ti2v" else "image_to_video")
    assert task(settings(folder, task="image_to_video")) == "image_to_video"
    if kind == "ti2v":
        assert task(settings(folder, task="text_to_video")) == "text_to_video"
    else:
        with pytest.raises(MotiveError, match=r"model\.task = 'text_to_video'.*image_to_video alone"):
            input_rules(settings(folder, task="text_to_video"))
    assert input_rules(settings(folder)).prompt_tokens == ((512, 512) if kind == "wan2.1" else None)
    model = load_model(settings(folder, task="image_to_video"), threads=1)
    assert isinstance(model, WanImageModel)
    model.save(tmp_path / "again")
    again = load_model(settings(folder, task="image_to_video"), threads=1, path=tmp_path / "again")
    with torch.no_grad():
        one, other = (
            each.predict(latents(model)[None], torch.tensor([950.0]), repeated(told(model), 1))
            for each in (model, again)
            if isinstance(each, WanImageModel)
        )
    assert torch.equal(one, other)


def test_models_with_equal_encoders_share_no_latents_unless_they_are_told_the_same(tmp_path: Path) -> None:
    """Wan 2.2 T2V A14B and I2V A14B have one VAE and one text encoder."""
    text = save_image_model("ti2v", tmp_path / "text")
    image = shutil.copytree(text, tmp_path / "image")
    shutil.copytree(save_image_model("a14b", tmp_path / "a14b") / "transformer", image / "transformer", dirs_exist_ok=True)
    hashes = [
        encoders_hash(make_workspace(tmp_path, folder, root=f"{folder.name}-{task}", model_settings={"task": task}))
        for folder, task in ((text, "auto"), (text, "text_to_video"), (text, "image_to_video"), (image, "auto"), (image, "image_to_video"))
    ]
    assert hashes[0] == hashes[1]
    assert hashes[3] == hashes[4]
    assert len({hashes[0], hashes[2], hashes[3]}) == 3


def test_prompts_from_a_file_are_refused_for_they_have_no_first_frame(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    ws = make_workspace(tmp_path, save_image_model("ti2v", tmp_path / "ti2v"), model_settings={"task": "image_to_video"})
    require_first_frames(ws)
    file = tmp_path / "data.yaml"
    file.write_text(file.read_text() + "generate: {prompts: prompts.txt}\n")
    with pytest.raises(MotiveError, match=r"generate\.prompts = .*prompts\.txt.*starts from a first frame"):
        require_first_frames(Workspace(load_config(file)))


@pytest.mark.parametrize(
    ("index", "transformer", "message"),
    [
        ({}, {"in_channels": 96}, r"takes 96 channels \(in_channels\)"),
        ({"_class_name": "WanImageToVideoPipeline"}, {}, "takes 16 channels"),
        ({}, {"in_channels": 36, "pos_embed_seq_len": 514}, "first and a last frame"),
    ],
)
def test_what_starts_from_something_else_is_refused(index: dict, transformer: dict, message: str) -> None:
    with pytest.raises(MotiveError, match=message):
        wan_tasks(index, {}, transformer)
