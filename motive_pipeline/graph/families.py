"""The families of video models. To add one, write its entry here and the function that loads it.

A loading function is called as ``load(folder, expert=..., device=..., compute_dtype=..., max_prompt_tokens=..., shared=...)`` and gives a
:class:`~motive_pipeline.models.protocol.VideoModel`. ``shared`` maps names of components to those that are loaded already, as keyword arguments of
diffusers' ``from_pretrained``. docs/models.md has an example.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """Models that one class of pipeline in diffusers' format loads.

    ``pipeline`` is ``_class_name`` in ``model_index.json``; ``label`` names the models. ``load`` is the dotted name of the loading function.
    ``weights`` are the components that hold weights (a model may lack some). ``encoders`` are the components that latents and prompt
    embeddings come from: when others change, neither is computed again. ``rules`` is the dotted name of the function that reads the model's
    :class:`~motive_pipeline.models.input_rules.InputRules` from the configs of its VAE and its transformer. ``clean_prompt`` is the dotted name of
    the function that the pipeline applies to a prompt before it is cut into tokens. Where ``told_frame_rate``, ``load`` also takes
    ``frame_rate``, the clips' frames per second. ``original_lora`` is the dotted name of the function that renames the tensors of a LoRA from diffusers'
    names to those of the model's original code, if other programs read those. ``tasks`` is the dotted name of the function that says which tasks a
    model can do (models/tasks.py), None where all are text-to-video; with it ``load`` also takes ``task``.
    """

    pipeline: str
    label: str
    load: str
    weights: tuple[str, ...] = ("transformer", "text_encoder", "vae")
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer", "vae")
    rules: str
    clean_prompt: str = "builtins:str"
    original_lora: str | None = None
    told_frame_rate: bool = False
    tasks: str | None = None


def _listed(*families: ModelFamily) -> dict[str, ModelFamily]:
    return {family.pipeline: family for family in families}


FAMILIES: dict[str, ModelFamily] = _listed(
    ModelFamily(
        pipeline="WanPipeline",
        label="text-to-video models of Wan 2.1 and 2.2",
        load="motive_pipeline.models.wan_load:load_wan",
        weights=("transformer", "transformer_2", "text_encoder", "vae"),
        rules="motive_pipeline.models.input_rules:wan_rules",
        clean_prompt="motive_pipeline.internals.diffusers:prompt_clean",
        original_lora="motive_pipeline.models.wan_lora:original_names",
        tasks="motive_pipeline.models.tasks:wan_tasks",
    ),
    ModelFamily(
        pipeline="WanImageToVideoPipeline",
        label="image-to-video models of Wan 2.1 and 2.2",
        load="motive_pipeline.models.wan_load:load_wan",
        weights=("transformer", "transformer_2", "text_encoder", "image_encoder", "vae"),
        encoders=("text_encoder", "tokenizer", "vae", "image_encoder", "image_processor"),
        rules="motive_pipeline.models.input_rules:wan_rules",
        clean_prompt="motive_pipeline.internals.diffusers:prompt_clean",
        original_lora="motive_pipeline.models.wan_lora:original_names",
        tasks="motive_pipeline.models.tasks:wan_tasks",
    ),
    ModelFamily(
        pipeline="LTXPipeline",
        label="LTX-Video",
        load="motive_pipeline.models.ltx:load_ltx",
        rules="motive_pipeline.models.input_rules:ltx_rules",
        told_frame_rate=True,
    ),
    ModelFamily(
        pipeline="CogVideoXPipeline",
        label="CogVideoX 2B and 5B",
        load="motive_pipeline.models.cogvideox:load_cogvideox",
        rules="motive_pipeline.models.input_rules:cogvideox_rules",
    ),
)
"""Every family, by the class of its pipeline."""
