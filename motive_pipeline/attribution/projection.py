"""Streamed Johnson-Lindenstrauss projections of a gradient that never exists as a whole (docs/method.md; equations 7 to 9).

Fastfood and CountSketch start alike. The gradient of each parameter is cut into blocks of ``block`` entries (2^16), every entry gets a random
sign, and the signed blocks are summed into one vector. Only this happens while backward runs. ``finish`` maps the sum to ``store_dim`` entries:

    fastfood     P = c * H_P fold G Pi H_block (sum over blocks of B)     c = 1 / sqrt(block * P)
    countsketch  P = c * H_P scatter           (sum over blocks of B)     c = 1 / sqrt(P)

with H the Walsh-Hadamard transform (entries +-1), Pi a permutation and G a Gaussian diagonal shared by all blocks, B the signs, independent
between blocks, ``fold`` the sum over segments of P entries (the first P rows of H_block are H_P after that fold), ``scatter`` the sum into
random buckets. E<Px, Py> = <x, y> over seeds. Because H_P comes last, the first p entries, p a power of two, times sqrt(P / p) are the
projection to p entries.

The first half is in signed_sum.py. Its randomness is a function of (seed, parameter name, flat index), and its result has the same bits for any
order in which the gradients arrive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.attribution import noise
from motive_pipeline.attribution.signed_sum import SignedSum
from motive_pipeline.errors import MotiveError

BLOCK = 2**16
EXACT_MAX_ENTRIES = 2**24
_RADIX = 64


@dataclass(frozen=True, kw_only=True)
class Projected:
    """A projected gradient, not normalized, in float32 on the CPU, and the length of the gradient before projection."""

    entries_P: Float[torch.Tensor, " P"]
    norm: float


@runtime_checkable
class Projector(Protocol):
    """Receives a gradient parameter by parameter and returns its projection."""

    def start(self, sizes: Mapping[str, int]) -> None:
        """Begin a gradient over the parameters named in ``sizes``, each with its number of entries."""
        ...

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Add the gradient of one parameter, of any shape and float dtype; at most once for each name."""
        ...

    def finish(self) -> Projected:
        """The projection of what was added since :meth:`start`. A parameter that was not added counts as zero."""
        ...


def build_projector(gradient: config.Gradient, device: torch.device) -> Projector:
    """The projector that ``gradient.projection`` names. ``factored`` is Fastfood over the sketches of factored.py."""
    if gradient.projection == "exact":
        return Exact()
    kind = {"fastfood": Fastfood, "factored": Fastfood, "countsketch": CountSketch}[gradient.projection]
    return kind(store_dim=gradient.store_dim, seed=gradient.proj_seed, device=device)


class Exact:
    """No projection: all entries, parameters in the order of their names. For audits on small models."""

    def start(self, sizes: Mapping[str, int]) -> None:
        """See :class:`Projector`.

        Raises:
            MotiveError: the parameters have too many entries to store one row of them for each clip.
        """
        total = sum(sizes.values())
        if total > EXACT_MAX_ENTRIES:
            raise MotiveError(
                f"gradient.projection: exact would store {total:,} numbers for each clip; {EXACT_MAX_ENTRIES:,} are allowed. "
                "Use fastfood, or choose fewer parameters with gradient.parameters."
            )
        self._entries = {name: torch.zeros(size) for name, size in sorted(sizes.items())}

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """See :class:`Projector`."""
        self._entries[name] = gradient.detach().reshape(-1).float().cpu().clone()

    def finish(self) -> Projected:
        """See :class:`Projector`."""
        entries_P = torch.cat(list(self._entries.values()))
        self._entries = {}
        return Projected(entries_P=entries_P, norm=float(torch.linalg.vector_norm(entries_P.double())))


class _Sketch:
    """A projection that begins with the sum of signed blocks. A subclass maps the sum to ``store_dim`` entries."""

    def __init__(self, *, store_dim: int, seed: int, device: torch.device) -> None:
        self.store_dim = store_dim
        self.block = max(BLOCK, store_dim)
        self._signed = SignedSum(block=self.block, seed=seed, device=device)

    def start(self, sizes: Mapping[str, int]) -> None:
        """See :class:`Projector`."""
        self._signed.start(sizes)

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """See :class:`Projector`."""
        self._signed.add(name, gradient)

    def finish(self) -> Projected:
        """See :class:`Projector`."""
        joined, norm = self._signed.finish()
        return Projected(entries_P=self._to_store_dim(joined).cpu(), norm=norm)

    def _to_store_dim(self, joined: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Fastfood(_Sketch):
    """The structured projection of the paper (Le, Sarlós, Smola, ICML 2013), with one permutation and one Gaussian for all blocks."""

    def __init__(self, *, store_dim: int, seed: int, device: torch.device) -> None:
        super().__init__(store_dim=store_dim, seed=seed, device=device)
        self._permutation = noise.permutation(seed, "permutation", self.block).to(device)
        self._gaussian = noise.normals(seed, "gaussian", self.block).to(device)

    def _to_store_dim(self, joined: torch.Tensor) -> torch.Tensor:
        mixed = self._gaussian * walsh_hadamard(joined)[self._permutation]
        folded_P = mixed.view(-1, self.store_dim).sum(dim=0)
        return walsh_hadamard(folded_P) / math.sqrt(self.block * self.store_dim)


class CountSketch(_Sketch):
    """Random buckets instead of a transform (Charikar, Chen, Farach-Colton, 2002); cheaper to finish, with slightly more variance."""

    def __init__(self, *, store_dim: int, seed: int, device: torch.device) -> None:
        super().__init__(store_dim=store_dim, seed=seed, device=device)
        self._bucket = (noise.words(seed, "buckets", self.block) % store_dim).to(device)

    def _to_store_dim(self, joined: torch.Tensor) -> torch.Tensor:
        sketch_P = torch.zeros(self.store_dim, device=joined.device).index_add_(0, self._bucket, joined)
        return walsh_hadamard(sketch_P) / math.sqrt(self.store_dim)


def walsh_hadamard(x: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, " n"]:
    """H x for the Hadamard matrix of Sylvester's order (entries +-1), as a chain of small matrix products; n is a power of two."""
    radix = min(_RADIX, len(x))
    result, done = x.view(-1, radix) @ hadamard_matrix(radix).to(x), radix
    while done < len(x):
        radix = min(_RADIX, len(x) // done)
        result = hadamard_matrix(radix).to(x) @ result.reshape(-1, radix, done)
        done *= radix
    return result.reshape(-1)


@lru_cache(maxsize=8)
def hadamard_matrix(n: int) -> Float[torch.Tensor, "n n"]:
    """Sylvester's n x n Hadamard matrix, n a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return matrix
