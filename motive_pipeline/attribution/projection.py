"""Streamed Johnson-Lindenstrauss projections of a gradient that never exists as a whole (METHOD, section 3; equations 7 to 9).

All projections of this module start alike. The gradient of each parameter is cut into blocks of ``block`` entries (2^16), every entry gets a
random sign, and the signed blocks are summed into one vector; that is all that happens while backward runs. ``finish`` maps the sum to
``store_dim`` entries:

    fastfood     P = c * H_P fold G Pi H_block (sum over blocks of B)     c = 1 / sqrt(block * P)
    countsketch  P = c * H_P scatter           (sum over blocks of B)     c = 1 / sqrt(P)

with H the Walsh-Hadamard transform (entries +-1), Pi a permutation and G a Gaussian diagonal shared by all blocks, B the signs, independent
between blocks, ``fold`` the sum over segments of P entries (the first P rows of H_block are H_P after that fold), ``scatter`` the sum into
random buckets. E<Px, Py> = <x, y> over seeds. Because H_P comes last, the first p entries, p a power of two, times sqrt(P / p) are the
projection to p entries.

The randomness is a function of (seed, parameter name, flat index). Each parameter is summed by itself, in the order of its blocks, and the
sums are joined in the order of names: the result has the same bits however the gradients arrive or modules are nested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.attribution import noise
from motive_pipeline.errors import MotiveError

BLOCK = 2**16
SIGN_BLOCKS = 4
"""The table of signs holds this many blocks."""
EXACT_MAX_ENTRIES = 2**24
_RADIX = 64


@dataclass(frozen=True, kw_only=True)
class Projected:
    """A projected gradient, not normalised, in float32 on the CPU, and the length of the gradient before projection."""

    entries_P: Float[torch.Tensor, " P"]
    norm: float


class Projector(Protocol):
    """Takes a gradient parameter by parameter and gives its projection."""

    def start(self, sizes: Mapping[str, int]) -> None:
        """Begin a gradient over the parameters named in ``sizes``, each with its number of entries."""
        ...

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Take in the gradient of one parameter, of any shape and float type; a second one for the same name adds to the first."""
        ...

    def finish(self) -> Projected:
        """The projection of what was added since :meth:`start`; a parameter that never came counts as zero."""
        ...


def build_projector(gradient: config.Gradient, device: torch.device) -> Projector:
    """The projector that ``gradient.projection`` names."""
    if gradient.projection == "exact":
        return Exact()
    kind = {"fastfood": Fastfood, "countsketch": CountSketch}[gradient.projection]
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
        self._entries[name] += gradient.detach().reshape(-1).float().cpu()

    def finish(self) -> Projected:
        """See :class:`Projector`."""
        entries_P = torch.cat(list(self._entries.values()))
        self._entries = {}
        return Projected(entries_P=entries_P, norm=float(torch.linalg.vector_norm(entries_P.double())))


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the sum of a parameter's blocks begins in the joined sum, and (start, flip) of the signs of each block."""

    place: int
    signs: list[tuple[int, float]]


class _SignedSum:
    """The first half of Fastfood and CountSketch: signed blocks summed into one vector, and the gradient's length.

    The sign of entry i of a block is f * table[o + i]: ``table`` holds random signs (one for all parameters), and each block of each
    parameter has its own random start o and flip f. Two entries that meet in the sum have independent signs, and two pairs of blocks
    uncorrelated products of signs, so the variance of an inner product is that of fully independent signs plus at most
    |x|^2 |y|^2 / len(table), from blocks that happen to share a start. It costs one multiply-add an entry, and the state hardly grows with
    the model. The place of a parameter's first entry in the sum is random, so that short parameters do not crowd at its beginning.
    """

    def __init__(self, *, store_dim: int, seed: int, device: torch.device) -> None:
        self.store_dim = store_dim
        self.seed = seed
        self.block = max(BLOCK, store_dim)
        self.device = device
        self._table = noise.signs(seed, "signs", SIGN_BLOCKS * self.block).to(device)
        self._layouts: dict[str, _Layout] = {}

    def start(self, sizes: Mapping[str, int]) -> None:
        """See :class:`Projector`."""
        for name, size in sizes.items():
            if name not in self._layouts:
                self._layouts[name] = self._layout(name, size)
        self._sums: dict[str, torch.Tensor] = {}
        self._squares: dict[str, list[torch.Tensor]] = {}

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """See :class:`Projector`."""
        flat = gradient.detach().reshape(-1).float()
        if name not in self._sums:
            self._sums[name] = torch.zeros(min(len(flat), self.block), device=self.device)
            self._squares[name] = []
        total, squares = self._sums[name], self._squares[name]
        for piece, (start, flip) in zip(flat.split(self.block), self._layouts[name].signs, strict=True):
            size = len(piece)
            total[:size].addcmul_(piece, self._table[start : start + size], value=flip)
            squares.append(torch.dot(piece, piece))

    def finish(self) -> Projected:
        """See :class:`Projector`."""
        joined = torch.zeros(self.block, device=self.device)
        for name in sorted(self._sums):
            total, place = self._sums[name], self._layouts[name].place
            before_end = min(len(total), self.block - place)
            joined[place : place + before_end] += total[:before_end]
            joined[: len(total) - before_end] += total[before_end:]
        squares = [square for name in sorted(self._squares) for square in self._squares[name]]
        norm = math.sqrt(float(torch.stack(squares).double().sum())) if squares else 0.0
        self._sums, self._squares = {}, {}
        return Projected(entries_P=self._to_store_dim(joined).cpu(), norm=norm)

    def _layout(self, name: str, size: int) -> _Layout:
        num_blocks = math.ceil(size / self.block)
        place, *words = noise.words(self.seed, f"layout of {name}", 1 + 2 * num_blocks).tolist()
        span = len(self._table) - self.block + 1
        flips = (1.0 if word >> 31 else -1.0 for word in words[1::2])
        return _Layout(place=place % self.block, signs=[(start % span, flip) for start, flip in zip(words[::2], flips, strict=True)])

    def _to_store_dim(self, joined: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _starts_and_flips(self, name: str, num_blocks: int) -> list[tuple[int, float]]:
        words = noise.words(self.seed, f"blocks of {name}", 2 * num_blocks).tolist()
        span = len(self._table) - self.block + 1
        return [(start % span, 1.0 if flip >> 31 else -1.0) for start, flip in zip(words[::2], words[1::2], strict=True)]

    def _place(self, name: str) -> int:
        return int(noise.words(self.seed, f"place of {name}", 1)) % self.block


class Fastfood(_SignedSum):
    """The structured projection of the paper (Le, Sarlós, Smola, ICML 2013), with one permutation and one Gaussian for all blocks."""

    def __init__(self, *, store_dim: int, seed: int, device: torch.device) -> None:
        super().__init__(store_dim=store_dim, seed=seed, device=device)
        self._permutation = noise.permutation(seed, "permutation", self.block).to(device)
        self._gaussian = noise.normals(seed, "gaussian", self.block).to(device)

    def _to_store_dim(self, joined: torch.Tensor) -> torch.Tensor:
        mixed = self._gaussian * walsh_hadamard(joined)[self._permutation]
        folded_P = mixed.view(-1, self.store_dim).sum(dim=0)
        return walsh_hadamard(folded_P) / math.sqrt(self.block * self.store_dim)


class CountSketch(_SignedSum):
    """Random buckets instead of a transform (Charikar, Chen, Farach-Colton, 2002); cheaper to finish, with a little more variance."""

    def __init__(self, *, store_dim: int, seed: int, device: torch.device) -> None:
        super().__init__(store_dim=store_dim, seed=seed, device=device)
        self._bucket = (noise.words(seed, "buckets", self.block) % store_dim).to(device)

    def _to_store_dim(self, joined: torch.Tensor) -> torch.Tensor:
        sketch_P = torch.zeros(self.store_dim, device=self.device).index_add_(0, self._bucket, joined)
        return walsh_hadamard(sketch_P) / math.sqrt(self.store_dim)


def walsh_hadamard(x: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, " n"]:
    """H x for the Hadamard matrix of Sylvester's order (entries +-1), as a chain of small matrix products; n is a power of two."""
    result, done = x, 1
    while done < len(x):
        radix = min(_RADIX, len(x) // done)
        hadamard = hadamard_matrix(radix).to(x)
        result = torch.matmul(hadamard, result.view(-1, radix, done)).reshape(-1)
        done *= radix
    return result


@lru_cache(maxsize=8)
def hadamard_matrix(n: int) -> Float[torch.Tensor, "n n"]:
    """Sylvester's n x n Hadamard matrix, n a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return matrix
