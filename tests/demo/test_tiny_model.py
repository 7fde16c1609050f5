"""The committed model: its layout, its limits, its VAE's strides and sharpness, and that its samples are pictures."""

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from motive_pipeline import models
from motive_pipeline.demo import generator as demo
from motive_pipeline.demo.motion_class import motion_class
from motive_pipeline.demo.train_tiny.__main__ import main
from motive_pipeline.demo.train_tiny.check import random_captions, sample_videos
from motive_pipeline.demo.train_tiny.films import training_specs, video_tensor
from motive_pipeline.demo.train_tiny.optimizers import Schedule, orthogonalised
from motive_pipeline.demo.train_tiny.pipeline import LATENT_CHANNELS, NUM_TOKENS, build_vae, is_finished, save_pipeline
from motive_pipeline.demo.train_tiny.transformer import NUM_HELD_OUT, hand_over, train_transformer
from motive_pipeline.demo.train_tiny.vae import decode_whole, encode_whole, load_vae, psnr_db, train_vae, whole_sequence

FOLDER = Path(models.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def pipeline():
    return WanPipeline.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def films():
    """Two of each motion, from a seed that no training film came from."""
    rng = np.random.default_rng(1)
    specs = [demo.sample_spec(rng, motion=motion) for motion in demo.MOTIONS for _ in range(2)]
    return specs, torch.from_numpy(np.stack([demo.render_clip(spec) for spec in specs]))


@pytest.fixture(scope="module")
def reconstructions(pipeline, films):
    with torch.no_grad():
        latents = pipeline.vae.encode(video_tensor(films[1])).latent_dist.mode()
        return latents, pipeline.vae.decode(latents).sample


def num_parameters(module):
    return sum(param.numel() for param in module.parameters())


def test_it_is_small(pipeline):
    assert num_parameters(pipeline.transformer) <= 1_800_000
    assert num_parameters(pipeline.vae) <= 700_000
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 10_000_000


def test_it_has_the_layout_of_wan_and_no_pickle():
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"
    parts = {name: index[name][1] for name in ("transformer", "vae", "text_encoder")}
    assert parts == {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan", "text_encoder": "UMT5EncoderModel"}
    assert index["tokenizer"][1].startswith("T5Tokenizer")
    assert not [path for path in FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_every_word_of_a_caption_is_one_known_token(pipeline):
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = demo.caption(demo.sample_spec(rng))
        ids = pipeline.tokenizer(text).input_ids
        assert len(ids) == len(text.split()) + 1 <= NUM_TOKENS
        assert pipeline.tokenizer.unk_token_id not in ids
        assert pipeline.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_captions_that_differ_in_one_word_have_different_embeddings(pipeline):
    captions = ["a large pink checked disc on a teal wavy background", "a small pink checked disc on a teal wavy background"]
    large, small = pipeline.encode_prompt(captions, do_classifier_free_guidance=False, max_sequence_length=NUM_TOKENS)[0]
    assert (large - small).norm() > 0.1 * large.norm()


def test_saved_and_loaded_it_is_the_same_model(pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "copy", {})
    copy = WanPipeline.from_pretrained(tmp_path / "copy")
    for name in ("transformer", "vae", "text_encoder"):
        ours, theirs = getattr(pipeline, name).state_dict(), getattr(copy, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert copy.vae.config.latents_mean == pipeline.vae.config.latents_mean
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_the_vae_makes_one_latent_of_four_frames_and_eight_by_eight_pixels(reconstructions, pipeline):
    latents, video = reconstructions
    assert tuple(latents.shape[1:]) == (LATENT_CHANNELS, 5, 8, 8)
    assert tuple(video.shape[1:]) == (3, 17, 64, 64)
    assert (pipeline.vae_scale_factor_temporal, pipeline.vae_scale_factor_spatial) == (4, 8)


def test_normalised_latents_have_mean_0_and_spread_1(reconstructions, pipeline):
    latents = reconstructions[0]
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (pipeline.vae.config.latents_mean, pipeline.vae.config.latents_std)
    )
    normalised = (latents - mean) / std
    assert abs(normalised.mean()) < 0.1
    assert 0.85 < normalised.std() < 1.15


def test_the_vae_reconstructs_unseen_films(reconstructions, films):
    assert psnr_db(reconstructions[1], video_tensor(films[1])) > 27


def test_motion_survives_the_vae(reconstructions, films):
    videos = ((reconstructions[1].permute(0, 2, 3, 4, 1).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    right = [motion_class(video).label == spec.motion for spec, video in zip(films[0], videos, strict=True)]
    assert np.mean(right) >= 0.85


def test_training_on_whole_sequences_computes_what_the_vae_computes(pipeline, films, reconstructions):
    vae = build_vae()
    vae.load_state_dict(pipeline.vae.state_dict())
    vae = whole_sequence(vae)
    with torch.no_grad():
        latents = encode_whole(vae, video_tensor(films[1][:4]))
        video = decode_whole(vae, latents)
    assert torch.allclose(latents, reconstructions[0][:4], atol=1e-4)
    assert torch.allclose(video.clamp(-1, 1), reconstructions[1][:4], atol=1e-3)


def test_orthogonalised_matrices_have_singular_values_near_one():
    """The iteration's fixed band: 0.7 to 1.2 for all but the smallest singular values."""
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (3, 40, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_learning_rates_follow_the_computing_time_of_the_training_thread():
    optimizer = torch.optim.SGD([torch.zeros(1)])
    schedule = Schedule([(optimizer, 4.0)], minutes=0.2 / 60, device=torch.device("cpu"), warmup_steps=2)
    time.sleep(0.3)
    assert schedule.progress < 0.5, "waiting is no training"
    assert schedule.advance(0.0)
    assert optimizer.param_groups[0]["lr"] == 2.0
    assert schedule.advance(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0)
    limit_s = time.monotonic() + 20
    while schedule.advance():
        assert time.monotonic() < limit_s
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-6)


def test_helping_threads_do_not_count_twice():
    """Two threads that compute side by side use the training's minutes as one does."""
    schedule = Schedule([], minutes=1.0, device=torch.device("cpu"))
    matrix, process_s = torch.randn(700, 700), time.process_time()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        while time.process_time() - process_s < 1.0:
            matrix @ matrix
    finally:
        torch.set_num_threads(threads)
    assert schedule.progress * 60 < 0.8


def test_training_goes_on_from_a_finished_pipeline(pipeline, tmp_path):
    hand_over(FOLDER, tmp_path)
    record = json.loads((FOLDER / "training.json").read_text())
    vae, transformer = load_vae(tmp_path), torch.load(tmp_path / "transformer_unfinished.pt", weights_only=True)
    assert all(torch.equal(value, pipeline.vae.state_dict()[name]) for name, value in vae.state_dict().items())
    assert (vae.config.latents_mean, vae.config.latents_std) == (pipeline.vae.config.latents_mean, pipeline.vae.config.latents_std)
    assert torch.load(tmp_path / "vae.pt", weights_only=True)["figures"] == record["vae"]
    assert all(torch.equal(value, pipeline.transformer.state_dict()[name]) for name, value in transformer["state"].items())
    assert transformer["earlier"] == record["transformer"]


@pytest.mark.parametrize(
    ("folder", "extra", "message"),
    [
        ("nothing", [], "is no pipeline that this command finished"),
        ("unfinished", [], "is no pipeline that this command finished"),
        (FOLDER, [], "is there already"),
        (FOLDER, ["--check"], "not allowed with argument"),
    ],
)
def test_a_start_that_cannot_be_is_refused_and_nothing_is_written(folder, extra, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "training.json").write_text('{"unfinished": true, "steps": 3}')
    work = tmp_path / "work"
    work.mkdir()
    (work / "vae.pt").write_text("somebody's")
    arguments = ["--out", str(tmp_path / "out"), "--work", str(work), "--start", str(tmp_path / folder), *extra]
    monkeypatch.setattr(sys, "argv", ["train_tiny", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err
    assert [path.name for path in work.iterdir()] == ["vae.pt"]
    assert (work / "vae.pt").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--num-latents", "256"], "--num-latents: 256 films are too few"), (["--batch", "33"], "cannot be shared evenly by 2 workers")],
)
def test_a_training_that_cannot_be_is_refused_before_it_begins(extra, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_tiny", "--out", str(tmp_path / "out"), *extra])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_samples_are_pictures_and_depend_on_their_own_seed_alone(pipeline):
    captions = random_captions(4, seed=5)
    videos = sample_videos(pipeline, captions, [1, 2, 3, 4], num_steps=12, guidance=1.0)
    alone = sample_videos(pipeline, captions[2:3], [3], num_steps=12, guidance=1.0)
    assert videos.shape == (4, 17, 64, 64, 3)
    assert np.abs(videos[2].astype(int) - alone[0]).max() <= 2
    for video in videos:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(float) for frame in video]
        neighbours = np.corrcoef(grey[8][:, 1:].ravel(), grey[8][:, :-1].ravel())[0, 1]
        in_time = np.corrcoef(grey[8].ravel(), grey[9].ravel())[0, 1]
        assert neighbours > 0.8, "a noise picture: neighbouring pixels do not agree"
        assert in_time > 0.8, "flicker: consecutive frames do not agree"


def test_the_transformer_trains_further_and_the_pipeline_says_how(pipeline, tmp_path):
    """A second of training on noise in place of latents, uncompiled: the step, the schedule, the running mean, the record."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    hand_over(FOLDER, work)
    captions = [demo.caption(spec) for spec in training_specs(NUM_HELD_OUT + 8, seed=0)]
    latents = torch.randn(len(captions), LATENT_CHANNELS, 5, 8, 8).half()
    torch.save({"latents": latents, "captions": captions, "rare_share": 0.25}, work / "latents.pt")
    with torch.compiler.set_stance("force_eager"):
        train_transformer(work, out, 1 / 60, device=torch.device("cpu"), batch=4, learning_rate=1e-3)
    assert is_finished(out)
    *earlier, figures = json.loads((out / "training.json").read_text())["transformer"]
    assert earlier == json.loads((FOLDER / "training.json").read_text())["transformer"]
    assert figures["steps"] > 1
    assert (figures["batch"], figures["num_latents"], figures["rare_share"]) == (4, 8, 0.25)
    trained = WanPipeline.from_pretrained(out)
    moved = [not torch.equal(trained.transformer.state_dict()[name], value) for name, value in pipeline.transformer.state_dict().items()]
    assert np.mean(moved) > 0.7, "the rest moved by less than fp16 shows"
    assert all(torch.equal(trained.vae.state_dict()[name], value) for name, value in pipeline.vae.state_dict().items())


def test_the_vae_trains_and_hands_over_its_figures(tmp_path):
    """A second on four films, uncompiled."""
    with torch.compiler.set_stance("force_eager"):
        train_vae(tmp_path, 1 / 60, num_clips=4, batch=2)
    figures = torch.load(tmp_path / "vae.pt", weights_only=True)["figures"]
    assert figures["steps"] > 0
    assert figures["machine"]["device"] == "cpu"
    assert load_vae(tmp_path).config.latents_std != build_vae().config.latents_std


def test_the_rare_motion_comes_as_often_as_asked():
    motions = [spec.motion for spec in training_specs(4000, seed=1, rare_share=0.2)]
    assert motions.count(demo.RARE_MOTION) / len(motions) == pytest.approx(0.2, abs=0.03)
    assert motions.count("pan") / len(motions) == pytest.approx(0.05, abs=0.02)
    assert demo.RARE_MOTION not in {spec.motion for spec in training_specs(500, seed=1, rare_share=0.0)}
