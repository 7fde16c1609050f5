"""Encoders: a clip's frames -> one unit vector, for the arm that chooses by plain similarity to the queries.

Axes: T decoded frames, H W pixels, K frames that a network sees, E entries of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from motive_pipeline.config import FLOW_HISTOGRAM, Config, Embedding
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.folder import check_memory, file_hashes, hash_memory
from motive_pipeline.models.hub import Named, resolve
from motive_pipeline.models.load import fixed_device
from motive_pipeline.models.sound import Component, require_finite_once, require_structure
from motive_pipeline.models.whole import read_json, some
from motive_pipeline.motion.histogram import flow_histogram, sampled_flow, velocity
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace

Encode = Callable[[UInt8[np.ndarray, "T H W 3"]], Float32[np.ndarray, " E"]]

FLOW_VERSION = 1
"""Increase this when the flow histogram changes."""

FLOW_SPANS, FLOW_CELLS = 2, 2
_NEEDED = ("config.json", "preprocessor_config.json")


def encoder_content(ws: Workspace) -> str:
    """A hash of the encoder and of the frames it gets from a clip, for the keys of its rows.

    Raises:
        MotiveError: there is no such encoder, see :func:`encoder_folder`, or its weights hold NaN or infinity.
    """
    embedding = ws.config.embedding
    if embedding.encoder == FLOW_HISTOGRAM:
        return digest(FLOW_HISTOGRAM, FLOW_VERSION)
    folder = encoder_folder(embedding)
    files = [file for name in (*_NEEDED, "*.safetensors") for file in sorted(folder.glob(name))]
    hashes = partial(file_hashes, folder, memory=hash_memory(ws))
    require_finite_once([_component(folder)], f"embedding.encoder = {embedding.encoder!r}", hashes, check_memory(ws))
    return digest(hashes(files), embedding.num_frames)


def load_encoder(config: Config) -> Encode:
    """The encoder that ``embedding.encoder`` names.

    Raises:
        MotiveError: there is none, or transformers cannot load it.
    """
    if config.embedding.encoder == FLOW_HISTOGRAM:
        return lambda frames_THWC: flow_embedding(frames_THWC, config.clips.fps)
    device = fixed_device(config.model.device, config.engine.threads)
    return PretrainedEncoder(encoder_folder(config.embedding), device=device, num_frames=config.embedding.num_frames)


def flow_embedding(frames_THWC: UInt8[np.ndarray, "T H W 3"], fps: float) -> Float32[np.ndarray, " E"]:
    """The square roots of the clip's flow histogram over two halves of its time and four quarters of its picture.

    Shares sum to 1, so their roots have unit length, and the cosine of two clips is the overlap of their histograms (Bhattacharyya coefficient).
    """
    return np.sqrt(flow_histogram(velocity(sampled_flow(frames_THWC, fps), fps), spans=FLOW_SPANS, cells=FLOW_CELLS))


class PretrainedEncoder:
    """An image or video encoder in transformers' format (CLIP, SigLIP, DINOv2, VideoMAE and similar).

    An image encoder gets ``num_frames`` evenly spaced frames, and their features are averaged. A video encoder gets as many frames as its config
    says, at once. The features are the projected image features if the model has a text side, else the pooled output, else the mean over its
    tokens.
    """

    def __init__(self, folder: Path, *, device: Any, num_frames: int) -> None:
        """Raises :class:`MotiveError` when transformers cannot load the folder, or weights are missing from it."""
        from transformers import AutoImageProcessor, AutoModel

        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
            model, info = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
        except (OSError, ValueError, KeyError) as error:
            raise MotiveError(
                f"embedding.encoder: transformers cannot load {folder} ({str(error).splitlines()[0]}). Name an image or video encoder such as "
                "CLIP, SigLIP, DINOv2 or VideoMAE; code that comes with a model is never run."
            ) from error
        if info["missing_keys"]:
            raise MotiveError(
                f"embedding.encoder: the weights in {folder} lack {len(info['missing_keys'])} tensors of a {type(model).__name__}, such as "
                f"{some(sorted(info['missing_keys']))}. Copy or download the encoder again."
            )
        self._device = device
        self._model = model.eval().float().to(self._device)
        self._num_frames = int(getattr(self._model.config, "num_frames", None) or num_frames)

    def __call__(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, " E"]:
        """The clip's embedding at unit length; zero where the features are zero."""
        import torch

        chosen_K = np.linspace(0, len(frames_THWC) - 1, self._num_frames).round().astype(int)
        pixels = self._processor(images=[frames_THWC[at] for at in chosen_K], return_tensors="pt")["pixel_values"].to(self._device)
        with torch.inference_mode():
            features = self._features(pixels)
        return normalized(features.mean(dim=0).double().cpu().numpy())

    def _features(self, pixels: Any) -> Any:
        """One row for each frame, or for the clip."""
        if hasattr(self._model, "get_image_features"):
            output = self._model.get_image_features(pixel_values=pixels)
        else:
            output = self._model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled
        return output.last_hidden_state.mean(dim=1) if hasattr(output, "last_hidden_state") else output


def normalized(features_E: Float[np.ndarray, " E"]) -> Float32[np.ndarray, " E"]:
    """``features_E`` divided by its length; zero stays zero."""
    length = float(np.linalg.norm(features_E))
    return (features_E / length if length else features_E).astype(np.float32)


def encoder_folder(embedding: Embedding) -> Path:
    """The folder of the encoder on this machine. A hub id is downloaded the first time.

    Raises:
        MotiveError: no such folder, it holds no model in transformers' format, or the hub cannot be reached.
    """
    return resolve(
        Named(
            key="embedding.encoder",
            name=embedding.encoder,
            revision=embedding.revision,
            allowed=f"{FLOW_HISTOGRAM}, a folder in transformers' format, or a hub id such as facebook/dinov2-small",
            files=(*_NEEDED, "*.safetensors"),
            require=lambda folder: _require_encoder(folder, embedding.encoder),
        )
    )


def _require_encoder(folder: Path, name: str) -> None:
    """Raise :class:`MotiveError` unless ``folder`` holds an encoder in transformers' format; ``name`` is the setting's value."""
    missing = [file for file in _NEEDED if not (folder / file).is_file()]
    missing += [] if any(folder.glob("*.safetensors")) else ["*.safetensors"]
    if missing:
        raise MotiveError(
            f"embedding.encoder = {name!r}: {folder} lacks {', '.join(missing)}, so it is not an encoder in transformers' format."
        )
    require_structure([_component(folder)], f"embedding.encoder = {name!r}")
    if not read_json(folder / "config.json").get("model_type"):
        raise MotiveError(
            f"embedding.encoder = {name!r}: {folder / 'config.json'} names no model_type, so transformers cannot tell what it is."
        )


def _component(folder: Path) -> Component:
    """The encoder, to be checked as the components of a pipeline are. Its config names its class."""
    return Component(label="the encoder", folder=folder, library="transformers", class_name="", has_weights=True)
