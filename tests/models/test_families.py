"""LTX-Video and CogVideoX against diffusers' own pipelines, on random ones: what is encoded, decoded and given to the transformer."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm
import torch
from diffusers import CogVideoXDPMScheduler
from transformers import T5Tokenizer

from motive_pipeline.attribution.gradient import ClipGradient
from motive_pipeline.attribution.loss import Draw, mean_motion_weighted_loss
from motive_pipeline.attribution.projection import Exact
from motive_pipeline.config import Finetune, Lora, Model
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.adapter import adapter_layers, adapter_weights, write_adapter
from motive_pipeline.models.cogvideox import CogVideoXModel
from motive_pipeline.models.conditioning import repeated
from motive_pipeline.models.diffusers_model import DiffusersModel
from motive_pipeline.models.fit import require_words
from motive_pipeline.models.load import load_model
from motive_pipeline.models.ltx import LTXModel
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.training.loop import finetune
from tests.tiny_families import COG_TOKENS, SETTINGS, build_cogvideox, build_ltx, cogvideox_model, ltx_model, save_tiny

SIZE = {"num_frames": 9, "height": 64, "width": 96}
DRAWS = [Draw(timestep=500.0, noise_seed=0), Draw(timestep=800.0, noise_seed=1)]


def cogvideox_2b() -> CogVideoXModel:
    return cogvideox_model(rotary=False)


BUILDERS: tuple[Callable[[], DiffusersModel], ...] = (ltx_model, cogvideox_model, cogvideox_2b)


@pytest.fixture(scope="module", params=BUILDERS, ids=lambda build: build.__name__)
def model(request: pytest.FixtureRequest) -> DiffusersModel:
    torch.set_num_threads(1)
    return request.param()


def video(num_frames: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 64, 96, 3), dtype=np.uint8)


def pixels(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def example(model: DiffusersModel, seed: int = 0):
    """Latents, conditioning and mask of a clip."""
    random = torch.Generator().manual_seed(seed)
    shape = model.grid.shape(9, 64, 96)
    return torch.randn(shape, generator=random), model.encode_prompt("a red circle"), torch.rand(shape[1:], generator=random)


def test_it_is_a_video_model(model):
    assert isinstance(model, VideoModel)
    assert model.prediction == ("flow" if isinstance(model, LTXModel) else "v")
    assert (model.alphas_cumprod is None) == (model.prediction == "flow")
    assert not model.transformer.training


def test_latents_are_the_posteriors_mode_scaled_as_in_training(model):
    latents = model.encode_video(video())
    assert latents.shape == model.grid.shape(9, 64, 96)
    vae = model.pipeline.vae
    mode = vae.encode(pixels(video())).latent_dist.mode()[0]
    if isinstance(model, LTXModel):
        expected = (mode - vae.latents_mean.view(-1, 1, 1, 1)) / vae.latents_std.view(-1, 1, 1, 1) * vae.config.scaling_factor
    else:
        expected = mode * vae.config.scaling_factor
    torch.testing.assert_close(latents, expected.detach(), rtol=1e-4, atol=1e-5)


def test_decoding_gives_back_the_frames_that_went_in(model):
    """As many, and those that the VAE makes of its own latents."""
    frames = model.decode_latents(model.encode_video(video()))
    assert frames.shape == video().shape
    vae = model.pipeline.vae
    with torch.no_grad():
        own = vae.decode(vae.encode(pixels(video())).latent_dist.mode()).sample
    assert np.abs(frames - ((own[0].permute(1, 2, 3, 0).numpy() + 1) * 127.5).clip(0, 255)).max() <= 0.51


def test_cogvideox_decodes_other_numbers_of_frames_to_more_than_went_in():
    """Why 8n+1 is its rule, although its stride is 4."""
    model = cogvideox_model()
    assert len(model.decode_latents(model.encode_video(video(5)))) == 8
    assert len(model.decode_latents(model.encode_video(video(17)))) == 17


def calls_of(model: DiffusersModel, run: Callable[[], Any]) -> list[dict[str, Any]]:
    """The arguments of every call of the transformer while ``run`` runs."""
    seen: list[dict[str, Any]] = []
    hook = model.transformer.register_forward_pre_hook(lambda _, __, given: seen.append(given), with_kwargs=True)
    try:
        run()
    finally:
        hook.remove()
    return seen


def test_predict_gives_the_transformer_what_the_pipelines_denoising_step_gives_it(model):
    prompts = ["a red circle", "blue"]
    told = [model.encode_prompt(prompt) for prompt in prompts]
    seen = calls_of(model, lambda: model.generate(prompts, seeds=[1, 2], num_steps=2, guidance=1.0, **SIZE))
    assert len(seen) == 2
    for given in seen:
        latents = (
            model.pipeline._unpack_latents(given["hidden_states"], *model.grid.shape(9, 64, 96)[1:])
            if isinstance(model, LTXModel)
            else given["hidden_states"].transpose(1, 2)
        )
        conditioning = {name: torch.stack([each[name] for each in told]) for name in told[0]}
        timestep = given["timestep"].float()
        (ours,) = calls_of(model, lambda: model.predict(latents, timestep, conditioning))  # noqa: B023
        assert ours.keys() == given.keys() - {"attention_kwargs"}
        for name, value in ours.items():
            require_equal(value, given[name], name)


def require_equal(ours: Any, theirs: Any, name: str) -> None:
    if isinstance(theirs, tuple):
        for part, other in zip(ours, theirs, strict=True):
            require_equal(part, other, name)
    elif isinstance(ours, torch.Tensor):
        expected = torch.as_tensor(theirs).expand(ours.shape).to(ours.dtype)
        assert torch.equal(ours, expected), name
    else:
        assert ours == theirs, name


def test_the_prediction_is_the_transformers_output_and_differentiable(model):
    latents, told, _ = example(model)
    outputs = []
    hook = model.transformer.register_forward_hook(lambda _, __, output: outputs.append(output[0]))
    found = model.predict(latents[None], torch.tensor([400.0]), repeated(told, 1))
    hook.remove()
    assert found.shape == latents[None].shape
    assert found.requires_grad
    back = model.pipeline._pack_latents(found) if isinstance(model, LTXModel) else found.transpose(1, 2)
    assert torch.equal(back, outputs[0])


def test_videos_are_those_of_the_pipeline(model):
    """The pipeline with its own decoding, in one batch, guided."""
    prompts, seeds = ["a red circle", "blue"], [3, 4]
    ours = model.generate(prompts, seeds=seeds, num_steps=2, guidance=3.0, **SIZE)
    rate = {"frame_rate": model.frame_rate} if isinstance(model, LTXModel) else {}
    theirs = model.pipeline(
        prompt=prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=2,
        guidance_scale=3.0,
        max_sequence_length=model.max_prompt_tokens,
        output_type="np",
        **SIZE,
        **rate,
    ).frames
    assert ours[0].shape == (9, 64, 96, 3)
    assert np.abs(np.stack(ours) - theirs * 255).max() <= 0.51


def test_the_noise_of_a_vae_that_adds_some_is_the_same_in_every_batch():
    """LTX-Video from 0.9.1 on: the decoder draws noise and is told a timestep."""
    model = ltx_model(timestep_conditioning=True)
    for name, parameter in model.pipeline.vae.named_parameters():
        if "per_channel_scale" in name:
            torch.nn.init.constant_(parameter, 0.5)
    settings = {"num_steps": 2, "guidance": 1.0, **SIZE}
    first = model.generate(["a red circle", "blue"], seeds=[1, 2], **settings)
    torch.rand(3)
    second = model.generate(["left", "blue"], seeds=[5, 2], **settings)
    assert np.array_equal(first[1], second[1])
    latents = model.encode_video(video())
    assert np.array_equal(model.decode_latents(latents), model.decode_latents(latents))


def test_cogvideox_samples_with_the_other_scheduler_too():
    model = cogvideox_model()
    model.pipeline.scheduler = CogVideoXDPMScheduler.from_config(model.pipeline.scheduler.config)
    again = CogVideoXModel(model.pipeline, max_prompt_tokens=COG_TOKENS, **SETTINGS)
    assert again.prediction == "v"
    torch.testing.assert_close(again.alphas_cumprod, model.alphas_cumprod)
    videos = [again.generate(["a red circle"], seeds=[seed], num_steps=2, guidance=1.0, **SIZE)[0] for seed in (0, 0, 1)]
    assert np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])


def test_ltx_is_told_the_frame_rate_of_its_clips_and_which_tokens_are_padding():
    slow, fast = ltx_model(frame_rate=8.0), ltx_model(frame_rate=24.0)
    told = [model.encode_prompt("red") for model in (slow, fast)]
    assert [float(each["frame_rate"]) for each in told] == [8.0, 24.0]
    latents, timestep = torch.randn(1, 4, 2, 2, 2), torch.tensor([500.0])
    outputs = [slow.predict(latents, timestep, repeated(each, 1)) for each in told]
    assert not torch.allclose(*outputs)
    assert told[0]["prompt_attention_mask"].tolist() == [True] * 2 + [False] * 6, "the word and the end, then padding"
    padding = ~told[0]["prompt_attention_mask"]
    changed = {**told[0], "prompt_embeds": told[0]["prompt_embeds"] + 5.0 * padding[:, None]}
    assert torch.equal(slow.predict(latents, timestep, repeated(changed, 1)), outputs[0]), "padding is not seen"


def test_the_gradient_is_autograds(model):
    latents, told, mask = example(model)
    feature = ClipGradient(model, projector=Exact(), draws=DRAWS)(latents, told, mask)
    named = dict(sorted(model.transformer.named_parameters()))
    loss = mean_motion_weighted_loss(model, latents, told, mask_FHW=mask, draws=DRAWS)
    plain = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(named.values()))]).numpy()
    assert feature.norm == pytest.approx(np.linalg.norm(plain), rel=1e-5)
    assert np.allclose(feature.gradient_P, plain / np.linalg.norm(plain), atol=1e-6)


@pytest.mark.parametrize("checkpointing", [True, "full"])
def test_the_gradient_does_not_depend_on_checkpointing(model, checkpointing):
    plain, checkpointed = (
        ClipGradient(model, projector=Exact(), draws=DRAWS[:1], checkpointing=how)(*example(model)) for how in (False, checkpointing)
    )
    assert np.allclose(plain.gradient_P, checkpointed.gradient_P, atol=1e-6)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_two_steps_of_training_change_the_weights_and_the_same_two_give_the_same_bits(build):
    settings = Finetune(steps=2, batch_size=2, learning_rate=1e-3, caption_dropout=0.5)
    states = []
    for _ in range(2):
        model = build()
        clips = {clip_id: example(model, seed)[:2] for seed, clip_id in enumerate("ab")}
        before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
        finetune(model, {tuple(clips["a"][0].shape[1:]): list(clips)}, clips.__getitem__, settings, training=0)
        states.append(model.transformer.state_dict())
        assert any(not torch.equal(before[name], value) for name, value in states[-1].items())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(("build", "attentions"), [(ltx_model, 2), (cogvideox_model, 1)])
def test_a_lora_that_was_trained_is_loaded_by_the_pipeline(tmp_path, build, attentions):
    settings = Finetune(steps=2, batch_size=1, learning_rate=1e-2, lora=Lora(rank=2))
    model, plain = build(), build()
    latents, told, _ = example(model)
    finetune(model, {tuple(latents.shape[1:]): ["a"]}, lambda _: (latents, told), settings, training=0)
    assert len(adapter_layers(model.transformer)) == 2 * (4 * attentions + 2), "all of attention and feed-forward"
    write_adapter(adapter_weights(model.transformer), tmp_path / "lora.safetensors")
    given = (latents[None], torch.tensor([500.0]), repeated(told, 1))
    before = plain.predict(*given)
    plain.pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    torch.testing.assert_close(plain.predict(*given), model.predict(*given), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, model.predict(*given), atol=1e-4)


@pytest.mark.parametrize(("build", "tokens", "kind"), [(build_ltx, 8, LTXModel), (build_cogvideox, COG_TOKENS, CogVideoXModel)])
def test_it_is_loaded_from_a_folder_and_saved_as_a_checkpoint(tmp_path, build, tokens, kind):
    settings = Model(path=str(save_tiny(build, tmp_path / "model")), dtype="float32", device="cpu", max_prompt_tokens=tokens)
    model = load_model(settings, threads=1, path=tmp_path / "model")
    assert isinstance(model, kind)
    with torch.no_grad():
        model.transformer.proj_out.weight.add_(1.0)
    model.save(tmp_path / "checkpoint")
    again = load_model(settings, threads=1, path=tmp_path / "checkpoint")
    latents, told, _ = example(model)
    given = (latents[None], torch.tensor([500.0]), repeated(told, 1))
    assert torch.equal(again.predict(*given), model.predict(*given))
    assert (tmp_path / "checkpoint/vae/config.json").samefile(tmp_path / "model/vae/config.json")
    with pytest.raises(MotiveError, match=r"model\.expert = 'transformer_2': the model .* has one expert"):
        load_model(settings.model_copy(update={"expert": "transformer_2"}), threads=1, path=tmp_path / "model")


def test_a_vocabulary_of_sentencepiece_alone_is_read(tmp_path):
    """As the published tokenizers of both families have it: spiece.model, no tokenizer.json."""
    words = [
        "a",
        "red",
        "blue",
        "circle",
        "square",
        "moves",
        "left",
        "right",
        "grows",
        "shrinks",
        "over",
        "the",
        "table",
        "with",
        "slow",
        "waves",
    ]
    lines = [" ".join(words[start:] + words[:start]) for start in range(len(words))] * 20
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "spiece"), vocab_size=60, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    settings = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    require_words(tmp_path, "T5Tokenizer", num_embeddings=100)
    tokenizer = T5Tokenizer.from_pretrained(tmp_path, local_files_only=True)
    plain = spm.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for text in ("a red circle", "slow waves over the table"):
        assert tokenizer(text).input_ids == [*plain.encode(text), 1]
