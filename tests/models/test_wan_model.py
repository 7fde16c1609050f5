"""WanModel against diffusers' own pipeline, on a random one."""

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from motive_pipeline.errors import MotiveError
from motive_pipeline.internals.diffusers import t5_embedding
from motive_pipeline.models.folder import model_files
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.models.wan import WanModel
from motive_pipeline.models.wan_attention import LeanAttention
from motive_pipeline.models.wan_load import load_wan
from tests.tiny_wan import build_model, build_pipeline, build_transformer, save_tiny_wan

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> WanModel:
    torch.set_num_threads(1)
    return build_model()


def load(folder, **changed) -> WanModel:
    settings = {"expert": "transformer", "device": CPU, "compute_dtype": torch.float32, "max_prompt_tokens": 8}
    return load_wan(folder, **(settings | changed))


def video(frames: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def test_it_is_a_video_model(model):
    assert isinstance(model, VideoModel)
    assert model.prediction == "flow"
    assert not model.transformer.training


def test_latents_are_the_posteriors_mode_normalised_by_the_models_own_statistics(model):
    latents = model.encode_video(video(9))
    assert latents.shape == model.grid.shape(9, 32, 48)
    vae = model.pipeline.vae
    pixels = torch.from_numpy(video(9)).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    mode = vae.encode(pixels).latent_dist.mode()[0]
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    assert torch.allclose(latents, (mode - mean) / std, atol=1e-5)
    assert torch.equal(latents, model.encode_video(video(9)))


def test_decoding_takes_the_normalisation_back(model):
    latents = model.encode_video(video())
    expected = model.pipeline.vae.decode(
        latents[None] * torch.tensor(model.pipeline.vae.config.latents_std).view(1, -1, 1, 1, 1)
        + torch.tensor(model.pipeline.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    ).sample[0]
    frames = model.decode_latents(latents)
    assert frames.shape == video().shape
    assert np.abs(frames - (expected.permute(1, 2, 3, 0).detach().numpy() + 1) * 127.5).max() <= 0.51


def test_prompts_are_cleaned_and_padded_with_zeros(model):
    def embedding_of(prompt):
        return model.encode_prompt(prompt)["prompt_embeds"]

    embedding = embedding_of("a  red\n circle ")
    assert embedding.shape == (8, 16)
    assert torch.equal(embedding, embedding_of("a red circle"))
    assert torch.equal(embedding_of("red &amp; blue"), embedding_of("red & blue"))
    assert embedding[:4].abs().sum(dim=1).min() > 0
    assert not embedding[4:].any()
    assert torch.equal(embedding, t5_embedding(model.pipeline, "a red circle", max_tokens=8))


def test_predict_is_the_transformer_in_float32_and_differentiable(model):
    latents, prompt = torch.randn(2, 16, 2, 4, 4), torch.randn(2, 8, 16)
    timestep = torch.tensor([500.0, 100.0])
    output = model.predict(latents, timestep, {"prompt_embeds": prompt})
    direct = model.transformer(hidden_states=latents, timestep=timestep, encoder_hidden_states=prompt, return_dict=False)[0]
    assert torch.equal(output, direct)
    assert output.requires_grad


def test_per_token_timesteps_of_wan_2_2_give_the_same_prediction():
    plain, expanded = build_model(), build_model(expand_timesteps=True)
    latents, prompt, timestep = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 8, 16), torch.tensor([500.0])
    seen = []
    expanded.transformer.register_forward_pre_hook(lambda _, __, given: seen.append(given["timestep"].shape), with_kwargs=True)
    told = {"prompt_embeds": prompt}
    assert torch.allclose(plain.predict(latents, timestep, told), expanded.predict(latents, timestep, told), atol=1e-5)
    assert seen == [(1, 2 * 2 * 3)], "one timestep for each token of 2 frames of 2 x 3 patches"
    assert len(expanded.generate(["a"], seeds=[0], num_frames=5, height=32, width=32, num_steps=1, guidance=1.0)) == 1


def test_the_second_expert_is_chosen_by_name():
    second = build_transformer(num_layers=1, heads=2, head_dim=12, ffn_dim=24)
    pipeline = build_pipeline(transformer_2=second, boundary_ratio=0.9)
    settings = {"device": CPU, "compute_dtype": torch.float32, "max_prompt_tokens": 8}
    assert WanModel(pipeline, expert="transformer_2", **settings).transformer is second
    assert WanModel(pipeline, expert="transformer", **settings).transformer is pipeline.transformer
    for expert in (second, pipeline.transformer):  # videos are drawn with both
        assert {type(each) for each in expert.attn_processors.values()} == {LeanAttention}
    with pytest.raises(MotiveError, match=r"model\.expert"):
        WanModel(build_pipeline(), expert="transformer_2", **settings)


@pytest.mark.parametrize(("kind", "prediction"), [("epsilon", "epsilon"), ("v_prediction", "v")])
def test_a_schedule_of_noise_comes_with_the_model_and_other_kinds_are_refused(kind, prediction):
    from diffusers import DDPMScheduler

    model = build_model(scheduler=DDPMScheduler(prediction_type=kind))
    assert model.prediction == prediction
    assert model.alphas_cumprod is not None
    assert len(model.alphas_cumprod) == 1000
    with pytest.raises(MotiveError, match=r"'sample'.*v_prediction"):
        build_model(scheduler=DDPMScheduler(prediction_type="sample"))


def test_a_video_comes_from_its_prompt_and_seed(model):
    settings = {"num_frames": 5, "height": 32, "width": 32, "num_steps": 2, "guidance": 2.0}
    first, second = model.generate(["a red circle", "blue"], seeds=[1, 2], **settings)
    assert first.shape == (5, 32, 32, 3)
    assert first.dtype == np.uint8
    again, other = model.generate(["a red circle", "blue"], seeds=[1, 3], **settings)
    assert np.abs(first.astype(int) - again).max() <= 1
    assert not np.array_equal(second, other)


def test_a_saved_model_is_a_pipeline_that_gives_the_same_bits(tmp_path):
    source = save_tiny_wan(tmp_path / "source")
    model = load(source)
    with torch.no_grad():
        model.transformer.proj_out.weight.add_(1.0)
    model.save(tmp_path / "checkpoint")
    WanPipeline.from_pretrained(tmp_path / "checkpoint")
    again = load(tmp_path / "checkpoint")
    latents, prompt, timestep = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 8, 16), torch.tensor([500.0])
    assert torch.equal(
        model.predict(latents, timestep, {"prompt_embeds": prompt}), again.predict(latents, timestep, {"prompt_embeds": prompt})
    )
    assert not torch.equal(
        load(source).predict(latents, timestep, {"prompt_embeds": prompt}), again.predict(latents, timestep, {"prompt_embeds": prompt})
    )


def test_a_checkpoint_shares_everything_but_the_transformer_with_its_source(tmp_path):
    source = save_tiny_wan(tmp_path / "source")
    (source / "README.md").write_text("a model card")
    load(source).save(tmp_path / "checkpoint")
    files = [file.relative_to(source) for file in model_files(source)]
    assert files == [file.relative_to(tmp_path / "checkpoint") for file in model_files(tmp_path / "checkpoint")]
    for file in files:
        shared = (tmp_path / "checkpoint" / file).samefile(source / file)
        assert shared == (file.parts[0] != "transformer"), file


def test_links_fall_back_to_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Invalid cross-device link")

    source = save_tiny_wan(tmp_path / "source")
    monkeypatch.setattr("os.link", refuse)
    load(source).save(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint/vae/config.json").read_bytes() == (source / "vae/config.json").read_bytes()
    load(tmp_path / "checkpoint")


def test_in_bfloat16_the_vae_stays_in_float32(tmp_path):
    model = load(save_tiny_wan(tmp_path / "source"), compute_dtype=torch.bfloat16)
    assert model.pipeline.vae.dtype == torch.float32
    assert model.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert model.encode_prompt("a")["prompt_embeds"].dtype == torch.float32
    assert (
        model.predict(torch.randn(1, 16, 2, 4, 4), torch.tensor([500.0]), {"prompt_embeds": torch.randn(1, 8, 16)}).dtype == torch.float32
    )


def test_a_pipeline_samples_on_the_models_device_wherever_its_components_are():
    """diffusers takes the device of its first component, which is the text encoder: in main memory while the transformer samples on a GPU."""
    pipeline = build_pipeline()
    model = WanModel(pipeline, device=torch.device("meta"), compute_dtype=torch.float32, max_prompt_tokens=8)
    assert model.pipeline.text_encoder.device == torch.device("cpu")
    assert model.pipeline._execution_device == torch.device("meta")
    assert isinstance(model.pipeline, WanPipeline)
    assert type(model.pipeline).__name__ == "WanPipeline", "the name that save_pretrained writes into model_index.json"
    assert build_pipeline()._execution_device == torch.device("cpu")
