"""The families of video models. To add one, write its entry here and the function that loads it.

A loading function is called as ``load(folder, expert=..., device=..., compute_dtype=..., max_prompt_tokens=...)`` and gives a
:class:`~motive_pipeline.models.protocol.VideoModel`. If it has a parameter ``shared``, too, it gets the components that are loaded already, as keyword
arguments of ``from_pretrained``, and its model has a diffusers ``pipeline``; else checkpoints load all components.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """Models that one class of pipeline in diffusers' format loads.

    ``pipeline`` is ``_class_name`` in ``model_index.json``; ``label`` names the models. ``load`` is the dotted name of the loading function.
    ``weights`` are the components that hold weights (a model may lack some). ``encoders`` are the components that latents and prompt
    embeddings come from: when others change, neither is computed again. ``channels``, ``temporal_stride`` and ``spatial_stride`` say where
    ``vae/config.json`` gives the latent grid: (key, value where the key is missing). ``clean_prompt`` is the dotted name of the function that
    the pipeline applies to a prompt before it is cut into tokens.
    """

    pipeline: str
    label: str
    load: str
    weights: tuple[str, ...] = ("transformer", "text_encoder", "vae")
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer", "vae")
    channels: tuple[str, int]
    temporal_stride: tuple[str, int]
    spatial_stride: tuple[str, int]
    clean_prompt: str = "builtins:str"


def _listed(*families: ModelFamily) -> dict[str, ModelFamily]:
    return {family.pipeline: family for family in families}


FAMILIES: dict[str, ModelFamily] = _listed(
    ModelFamily(
        pipeline="WanPipeline",
        label="text-to-video models of Wan 2.1 and 2.2",
        load="motive_pipeline.models.wan:load_wan",
        weights=("transformer", "transformer_2", "text_encoder", "vae"),
        channels=("z_dim", 16),
        temporal_stride=("scale_factor_temporal", 4),
        spatial_stride=("scale_factor_spatial", 8),
        clean_prompt="motive_pipeline.internals.diffusers:prompt_clean",
    ),
)
"""Every family, by the class of its pipeline."""
