"""Attention in fewer passes against diffusers' own: the same output and the same gradients."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from motive_pipeline.internals.diffusers import WanAttention, WanAttnProcessor
from motive_pipeline.models.wan_attention import LeanAttention, apply_rotary, rms_norm, use_lean_attention
from tests.tiny_wan import build_model, build_transformer

SHAPE_BCFHW = (2, 16, 3, 8, 8)


def random_transformer(dtype: torch.dtype) -> WanTransformer3DModel:
    """With weights of every kind away from their initial ones and zeros, so that each counts."""
    transformer = build_transformer(num_layers=2, heads=2, head_dim=12, ffn_dim=48).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(dtype))
    return transformer


def outcome(transformer: WanTransformer3DModel, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output, then the gradients of the latents, the prompt and all weights."""
    generator = torch.Generator().manual_seed(0)
    latents, prompt = (torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in (SHAPE_BCFHW, (2, 5, 16)))
    given = transformer(latents, torch.tensor([400.0, 700.0]), prompt, return_dict=False)[0]
    inputs = [latents, prompt, *transformer.parameters()]
    return [each.detach().double() for each in (given, *torch.autograd.grad(given.float().square().sum(), inputs))]


def errors(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest relative error of any of them."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("dtype", "at_most"), [(torch.float64, 3e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_output_and_all_gradients_are_those_of_diffusers(dtype, at_most):
    transformer = random_transformer(dtype)
    expected = outcome(transformer, dtype)
    use_lean_attention(transformer)
    found = outcome(transformer, dtype)
    assert {type(module.processor) for module in transformer.modules() if isinstance(module, WanAttention)} == {LeanAttention}
    assert all(each.any() for each in expected)
    assert errors(found, expected) < at_most


def test_a_backend_that_was_chosen_is_kept_and_a_processor_of_ones_own_left_alone():
    class Own(WanAttnProcessor):
        pass

    transformer = build_transformer(num_layers=1, heads=2, head_dim=12, ffn_dim=24)
    transformer.set_attention_backend("native")
    transformer.blocks[0].attn2.set_processor(Own())
    use_lean_attention(transformer)
    lean, own = transformer.blocks[0].attn1.processor, transformer.blocks[0].attn2.processor
    assert (type(lean), type(own)) == (LeanAttention, Own)
    assert lean._attention_backend == "native"


def test_a_model_of_the_pipeline_has_it():
    model = build_model()
    assert all(isinstance(module.processor, LeanAttention) for module in model.transformer.modules() if isinstance(module, WanAttention))


def test_an_image_model_is_left_to_diffusers():
    attention = WanAttention(dim=24, heads=2, dim_head=12, added_kv_proj_dim=24, cross_attention_dim_head=12, processor=WanAttnProcessor())
    generator = torch.Generator().manual_seed(0)
    hidden, context = torch.randn(1, 6, 24, generator=generator), torch.randn(1, 512 + 7, 24, generator=generator)
    expected = attention(hidden, context)
    attention.set_processor(LeanAttention())
    assert torch.equal(attention(hidden, context), expected)


def test_what_a_mask_hides_is_not_attended_to():
    attention = WanAttention(dim=24, heads=2, dim_head=12, cross_attention_dim_head=12, processor=WanAttnProcessor())
    generator = torch.Generator().manual_seed(0)
    hidden, context = torch.randn(1, 6, 24, generator=generator), torch.randn(1, 5, 24, generator=generator)
    mask = torch.rand(1, 1, 6, 5, generator=generator) < 0.5
    mask[..., 0] = True
    expected = attention(hidden, context, mask)
    attention.set_processor(LeanAttention())
    assert torch.allclose(attention(hidden, context, mask), expected, atol=1e-6)
    assert not torch.allclose(attention(hidden, context), expected, atol=1e-2)


def test_pairs_are_turned_by_their_angle():
    angle_TD = torch.tensor([[0.0, 0.5], [1.0, 2.0]], dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angle_TD), angle_TD)[None, :, None]
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 2.0, -1.0]], dtype=torch.float64)[None, :, None]
    found = apply_rotary(x, turn)[0, :, 0]
    for row in range(2):
        for pair in range(2):
            cos, sin = angle_TD[row, pair].cos(), angle_TD[row, pair].sin()
            a, b = x[0, row, 0, 2 * pair : 2 * pair + 2]
            expected = torch.stack([a * cos - b * sin, a * sin + b * cos])
            assert torch.allclose(found[row, 2 * pair : 2 * pair + 2], expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(apply_rotary(x.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0), turn)[0, :, 0], found), (
        "however x lies in memory"
    )


@pytest.mark.parametrize("eps", [1e-6, 0.3, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_norm_is_torchs(eps, dtype):
    generator = torch.Generator().manual_seed(0)
    norm = torch.nn.RMSNorm(10, eps=eps).to(dtype)
    norm.weight.data = torch.randn(10, generator=generator).to(dtype)
    x = torch.randn(2, 7, 10, generator=generator).to(dtype).requires_grad_()
    weights = torch.randn(2, 7, 10, generator=generator).to(dtype)
    expected = torch.autograd.grad((norm(x) * weights).sum(), [x, norm.weight])
    found = torch.autograd.grad((rms_norm(norm, x) * weights).sum(), [x, norm.weight])
    assert torch.allclose(rms_norm(norm, x), norm(x), rtol=1e-5)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-6 if dtype == torch.float32 else 1e-12)
    assert torch.autograd.gradcheck(lambda x: rms_norm(norm, x), x) if dtype == torch.float64 else True


def test_only_what_is_asked_for_gets_a_gradient():
    norm = torch.nn.RMSNorm(6)
    x = torch.randn(1, 3, 6, requires_grad=True)
    norm.weight.requires_grad_(False)
    rms_norm(norm, x).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None
    norm.weight.requires_grad_(True)
    rms_norm(norm, x.detach()).sum().backward()
    assert norm.weight.grad is not None


@pytest.mark.parametrize(
    ("norm", "dtype"),
    [
        (torch.nn.Identity(), torch.float32),
        (torch.nn.RMSNorm(6, elementwise_affine=False), torch.float32),
        (torch.nn.RMSNorm(6, dtype=torch.bfloat16), torch.bfloat16),
        (torch.nn.RMSNorm(6, dtype=torch.bfloat16), torch.float32),
        (torch.nn.RMSNorm((3, 6)), torch.float32),
    ],
)
def test_another_norm_is_called_as_it_is(norm, dtype):
    x = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    found, expected = rms_norm(norm, x), norm(x)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    if isinstance(norm, torch.nn.RMSNorm) and norm.weight is not None:
        assert torch.equal(*(torch.autograd.grad(each.float().sum(), norm.weight)[0] for each in (found, expected)))
