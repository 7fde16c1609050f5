"""What is used of libraries beyond their public interfaces: in one file for each library, tested with bounded versions, and still there."""

import ast
import importlib
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.specifiers import SpecifierSet

from tests.tiny_wan import build_pipeline, build_transformer

REPOSITORY = Path(__file__).parents[1]
SHAPE = {"num_layers": 1, "heads": 2, "head_dim": 12, "ffn_dim": 48}
FILES = {
    "dagster": "assets/dagster_internals.py",
    "diffusers": "motive_pipeline/internals/diffusers.py",
    "torch": "motive_pipeline/internals/torch.py",
}
PRIVATE = re.compile(
    r"""\b(?:
        dagster(?:_shared|_graphql)?\._\w+ | torch\._(?!_)\w+ | torch\.ops\.aten\b | diffusers\.models\.\w+ | diffusers\.pipelines\.\w+
        | zarr\.(?:core|_\w+) | duckdb\._\w+ | transformers\.models\.\w+ | (?:pyarrow|pandas|numpy|av|huggingface_hub|safetensors)\._(?!_)\w+
    )""",
    re.VERBOSE,
)
"""Modules and functions that their library does not document."""


def private_imports(file: str) -> list[tuple[str, str]]:
    """(module, name) of everything that the file imports from its library's private modules."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and PRIVATE.match(node.module)]
    return [(node.module or "", alias.name) for node in found for alias in node.names]


@pytest.mark.parametrize(
    ("library", "module", "name"), [(library, *each) for library, file in FILES.items() for each in private_imports(file)]
)
def test_what_is_imported_from_private_modules_is_still_there(library, module, name):
    try:
        found = hasattr(importlib.import_module(module), name)
    except ImportError:
        found = False
    assert found, (
        f"{library} {version(library)} has no {module}.{name} any more: adapt {FILES[library]}, or bound {library} in pyproject.toml"
    )


def test_nothing_private_is_used_anywhere_else():
    found = []
    for folder in ("motive_pipeline", "assets", "benchmarks"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            name = file.relative_to(REPOSITORY).as_posix()
            if name not in FILES.values():
                lines = file.read_text(encoding="utf-8").splitlines()
                found += [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if PRIVATE.search(line)]
    assert not found, "move it to the library's file of internals:\n" + "\n".join(found)


@pytest.mark.parametrize("library", FILES)
def test_the_versions_it_was_tested_with_are_those_that_may_be_installed(library):
    tested = next(
        SpecifierSet(ast.literal_eval(node.value))
        for node in ast.parse((REPOSITORY / FILES[library]).read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "TESTED"
    )
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    requirement = next(line for line in declared if re.match(rf"{library}\b(?!-)", line))
    assert SpecifierSet(requirement.removeprefix(library)) == tested
    assert version(library).partition("+")[0] in tested


class TestTorch:
    def test_operations_on_lists_are_those_on_each(self):
        from motive_pipeline.internals.torch import add_each, copy_each, lerp_each, subtract_each

        generator = torch.Generator().manual_seed(0)
        left, right = ([torch.randn(shape, generator=generator) for shape in ((3,), (2, 5))] for _ in range(2))
        for change, single in (
            (subtract_each, lambda a, b: a - b),
            (lambda a, b: add_each(a, b, 0.25), lambda a, b: torch.add(a, b, alpha=0.25)),
            (copy_each, lambda _a, b: b),
            (lambda a, b: lerp_each(a, b, 0.25), lambda a, b: torch.lerp(a, b, 0.25)),
        ):
            changed = [each.clone() for each in left]
            change(changed, right)
            assert all(torch.equal(found, single(a, b)) for found, a, b in zip(changed, left, right, strict=True))

    def test_attention_still_becomes_one_of_the_fused_kernels(self):
        from torch.utils._python_dispatch import TorchDispatchMode

        from motive_pipeline.internals.torch import FUSED_ATTENTION

        called = []

        class Record(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                called.append(func)
                return func(*args, **(kwargs or {}))

        query = torch.randn(1, 2, 8, 16)
        with Record():
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
        assert FUSED_ATTENTION & set(called), f"attention ran as {called}: adapt FUSED_ATTENTION, or checkpointing computes it twice"


class TestDiffusers:
    def test_the_attributes_of_the_attention_processor_are_there_and_mean_what_they_did(self):
        from motive_pipeline.internals.diffusers import WanAttention, WanAttnProcessor, attention_backend, is_plain_attention

        transformer = build_transformer(**SHAPE)
        attentions = [module for module in transformer.modules() if isinstance(module, WanAttention)]
        assert attentions
        for attention in attentions:
            assert isinstance(attention.processor, WanAttnProcessor)
            assert attention_backend(attention.processor) is None
            assert is_plain_attention(attention, attention.processor)
        transformer.set_attention_backend("native")
        assert attention_backend(attentions[0].processor) is not None
        transformer.fuse_qkv_projections()
        assert not any(is_plain_attention(each, each.processor) for each in attentions)

    def test_what_is_kept_in_float32_and_the_prompt_embedding_are_there(self):
        from motive_pipeline.internals.diffusers import float32_modules, t5_embedding

        names = [name for name, _ in build_transformer(**SHAPE).named_parameters()]
        assert any(part in name for part in float32_modules(build_transformer(**SHAPE)) for name in names)
        assert t5_embedding(build_pipeline(), "a red circle", max_tokens=8).shape[0] == 8
