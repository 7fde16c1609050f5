"""The parts of the tiny pipeline, untrained, and how a trained one is saved."""

import copy
import json
import math
import os
import platform
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from motive_pipeline.demo import generator as demo

NUM_TOKENS = 32  # of every prompt, padding included
LATENT_CHANNELS = 16
LATENT_NOISE = 0.15  # added to the latents while the VAE trains, and its posterior's standard deviation ever after


def build_vae() -> AutoencoderKLWan:
    """0.67 M parameters, Wan 2.2's patchified layout: 4 frames into one latent frame (after the first), 8x8 pixels into one."""
    vae = AutoencoderKLWan(
        base_dim=16,
        dim_mult=[1, 2, 2],
        z_dim=LATENT_CHANNELS,
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    with torch.no_grad():  # the posterior's spread is a constant
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = 2 * math.log(LATENT_NOISE)
    return vae


def build_tokenizer() -> T5TokenizerFast:
    """One token a word of the demo's captions; any other word is unknown."""
    words = sorted(
        {"a", "on", "background"}
        | set(demo.RADIUS_PX) | set(demo.SHAPE_COLOURS) | set(demo.TEXTURES) | set(demo.SHAPES)
        | set(demo.BACKGROUND_COLOURS) | set(demo.PATTERNS)
    )  # fmt: skip
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0), *((f"▁{word}", -1.0) for word in words)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=NUM_TOKENS)


def build_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """Random and never trained: it only has to give every word its own direction."""
    config = UMT5Config(
        vocab_size=vocab_size, d_model=48, d_kv=16, d_ff=64, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu", dropout_rate=0.0
    )
    return UMT5EncoderModel(config).eval()


def build_transformer(text_dim: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=text_dim,
        freq_dim=64,
        ffn_dim=448,
        num_layers=6,
        rope_max_seq_len=64,
    )


def build_pipeline(seed: int = 0) -> WanPipeline:
    """The whole pipeline with random weights."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(len(tokenizer))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0)
    transformer = build_transformer(text_encoder.config.d_model)
    return WanPipeline(tokenizer=tokenizer, text_encoder=text_encoder, vae=build_vae(), scheduler=scheduler, transformer=transformer)


def save_pipeline(pipeline: WanPipeline, folder: Path, training: dict) -> None:
    """Write the weights (fp16, but for the text encoder, which transformers would load in fp16 then) and `training.json`.

    A folder that is there is replaced in one move, its old content removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    halves = {name: copy.deepcopy(getattr(pipeline, name)).to(torch.float16) for name in ("vae", "transformer")}
    kept = {name: getattr(pipeline, name) for name in ("tokenizer", "scheduler", "text_encoder")}
    WanPipeline(**kept, **halves).save_pretrained(unfinished)
    for path in unfinished.rglob("*.safetensors"):
        path.chmod(0o644)
    (unfinished / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    unfinished.chmod(0o755)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
        os.rename(folder, old)
        os.rename(unfinished, folder)
        shutil.rmtree(old)
    else:
        os.rename(unfinished, folder)


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds a pipeline whose training came to its end, by its `training.json`."""
    record = folder / "training.json"
    return record.is_file() and not json.loads(record.read_text()).get("unfinished", False)


def machine(device: torch.device) -> dict:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"cpu_cores": os.cpu_count(), "architecture": platform.machine(), "torch": str(torch.__version__), "device": name}
