"""``gradient.parameters: adapter``: what the gradients of a LoRA are, fresh or trained, and which settings they depend on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from motive_pipeline.attribution.gradient import ClipGradient
from motive_pipeline.attribution.loss import Draw, mean_motion_weighted_loss
from motive_pipeline.attribution.projection import Exact
from motive_pipeline.attribution.stage import load_gradients, publish_gradients
from motive_pipeline.attribution.streaming import selected_parameters
from motive_pipeline.config import Lora
from motive_pipeline.curation.controls import reset_weights
from motive_pipeline.errors import ConfigError
from motive_pipeline.models.adapter import adapter_layers, adapter_parameters, adapter_weights, add_adapter, write_adapter
from tests.gradient_fixtures import workspace
from tests.tiny_wan import build_model

DRAWS = [Draw(timestep=500.0, noise_seed=0)]
LORA = Lora(rank=3, alpha=6)


def clip():
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(16, 2, 4, 4, generator=draw),
        {"prompt_embeds": torch.randn(8, 16, generator=draw)},
        torch.rand(2, 4, 4, generator=draw),
    )


def gradients(model, names) -> dict[str, torch.Tensor]:
    latents, prompt, mask = clip()
    chosen = [dict(model.transformer.named_parameters())[name] for name in names]
    loss = mean_motion_weighted_loss(model, latents, prompt, mask_FHW=mask, draws=DRAWS)
    return dict(zip(names, torch.autograd.grad(loss, chosen), strict=True))


def test_of_a_fresh_adapter_it_is_the_gradient_of_the_weights_times_a() -> None:
    """d loss / d B = s (d loss / d W) A^T, because the layer computes (W + s B A) x and B is zero."""
    model = build_model()
    add_adapter(model.transformer, LORA, 0)
    names = list(selected_parameters(model.transformer, "adapter"))
    assert names
    assert all(".lora_B." in name for name in names)
    feature = ClipGradient(model, projector=Exact(), draws=DRAWS, parameters="adapter")(*clip())
    weights = gradients(build_model(), [f"{layer}.weight" for layer in adapter_layers(model.transformer)])
    factors = dict(model.transformer.named_parameters())
    expected = []
    for name in sorted(names):
        layer = name.split(".lora_B.")[0]
        expected.append((2.0 * weights[f"{layer}.weight"] @ factors[f"{layer}.lora_A.default.weight"].T).flatten())
    np.testing.assert_allclose(feature.gradient_P * feature.norm, torch.cat(expected).detach().numpy(), atol=1e-6)


def test_of_a_trained_adapter_it_is_that_of_a_and_b() -> None:
    model = build_model()
    add_adapter(model.transformer, LORA, 0)
    for parameter in adapter_parameters(model.transformer).values():
        parameter.data += 0.1
    feature = ClipGradient(model, projector=Exact(), draws=DRAWS, parameters="adapter")(*clip())
    plain = gradients(model, sorted(adapter_parameters(model.transformer)))
    np.testing.assert_allclose(feature.gradient_P * feature.norm, torch.cat([g.flatten() for g in plain.values()]).numpy(), atol=1e-6)


def test_the_untrained_network_has_a_fresh_adapter_and_the_weights_of_one_without() -> None:
    plain, adapted = build_model(), build_model()
    add_adapter(adapted.transformer, LORA, 0)
    for parameter in adapter_parameters(adapted.transformer).values():
        parameter.data += 0.1
    for model in (plain, adapted):
        reset_weights(model, 1)
    weights = {name.replace(".base_layer.", "."): value for name, value in adapted.transformer.state_dict().items() if ".lora_" not in name}
    assert all(torch.equal(value, weights[name]) for name, value in plain.transformer.state_dict().items())
    assert next(iter(selected_parameters(adapted.transformer, "adapter"))).count(".lora_B.") == 1, "B is zero again"


def test_rows_are_of_the_adapter_that_the_settings_name(folder: Path, tmp_path: Path) -> None:
    lora = {"rank": 2}
    ws = workspace(folder, gradient={"parameters": "adapter"}, finetune={"lora": lora})
    publish_gradients(ws, variant="motive", role="query")
    fresh = load_gradients(ws, "motive", "query", 256).rows()
    model = build_model()
    add_adapter(model.transformer, Lora(rank=2), 5)
    for parameter in adapter_parameters(model.transformer).values():
        parameter.data += 0.05
    write_adapter(adapter_weights(model.transformer), tmp_path / "some.safetensors")
    given = workspace(
        folder, gradient={"parameters": "adapter"}, finetune={"lora": lora}, model={"adapter": str(tmp_path / "some.safetensors")}
    )
    publish_gradients(given, variant="motive", role="query")
    assert not np.allclose(load_gradients(given, "motive", "query", 256).rows(), fresh)


def test_the_adapters_settings_count_only_where_it_is_attributed(folder: Path) -> None:
    def fingerprint(parameters: str, lora: dict | None) -> str:
        return workspace(folder, gradient={"parameters": parameters}, finetune={"lora": lora}).config.row_fingerprint("gradient")

    assert fingerprint("all", None) == fingerprint("all", {"rank": 2})
    assert fingerprint("adapter", {"rank": 4}) != fingerprint("adapter", {"rank": 2})


def test_an_adapter_that_nothing_describes_is_refused(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"gradient.parameters: adapter \(of motive.*\) attributes a LoRA, and there is none: set finetune.lora"
    ):
        workspace(folder, gradient={"parameters": "adapter"})
