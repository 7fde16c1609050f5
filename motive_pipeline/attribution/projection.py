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
sums are joined by a tree over the names: the result has the same bits in whatever order the gradients arrive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.attribution import noise
from motive_pipeline.errors import MotiveError

BLOCK = 2**16
SIGN_BLOCKS = 4
"""The table of signs holds this many blocks."""
SHORT = 8
"""A parameter with fewer than a block / ``SHORT`` entries is kept until the end of the pass."""
EXACT_MAX_ENTRIES = 2**24
_RADIX = 64


@dataclass(frozen=True, kw_only=True)
class Projected:
    """A projected gradient, not normalised, in float32 on the CPU, and the length of the gradient before projection."""

    entries_P: Float[torch.Tensor, " P"]
    norm: float


@runtime_checkable
class Projector(Protocol):
    """Takes a gradient parameter by parameter and gives its projection."""

    def start(self, sizes: Mapping[str, int]) -> None:
        """Begin a gradient over the parameters named in ``sizes``, each with its number of entries."""
        ...

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Take in the gradient of one parameter, of any shape and float type; once for each name."""
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
        self._entries[name] = gradient.detach().reshape(-1).float().cpu().clone()

    def finish(self) -> Projected:
        """See :class:`Projector`."""
        entries_P = torch.cat(list(self._entries.values()))
        self._entries = {}
        return Projected(entries_P=entries_P, norm=float(torch.linalg.vector_norm(entries_P.double())))


class _Piece(NamedTuple):
    """A run of a parameter's entries within one block: its place in the sum, and where and with which factor its signs are."""

    place: int
    size: int
    signs_from: int
    flip: float

    def signs(self, table: torch.Tensor) -> torch.Tensor:
        """The signs of the run, but for ``flip``."""
        return table[self.signs_from : self.signs_from + self.size]


class _SignedSum:
    """The first half of Fastfood and CountSketch: signed blocks summed into one vector, and the gradient's length.

    Entry j of a parameter belongs to place (o + j) mod ``block`` of the sum, o random for each parameter, so that short ones do not crowd in
    one corner. The sign of the entry at place i of a block is f * table[s + i]: ``table`` holds random signs (one for all parameters), and
    each block of each parameter has its own random start s and flip f. Two entries that meet in the sum have independent signs, and two
    pairs of blocks uncorrelated products of signs, so the variance of an inner product is that of fully independent signs plus at most
    |x|^2 |y|^2 / len(table), from blocks that happen to share a start. It costs one multiply-add an entry and a few bytes a block.
    """

    def __init__(self, *, store_dim: int, seed: int, device: torch.device) -> None:
        self.store_dim = store_dim
        self.seed = seed
        self.block = max(BLOCK, store_dim)
        self.device = device
        self._table = noise.signs(seed, "signs", SIGN_BLOCKS * self.block).to(device)
        self._sizes: dict[str, int] = {}
        self._sum = OrderedSum(self.block, device)

    def start(self, sizes: Mapping[str, int]) -> None:
        """See :class:`Projector`."""
        if sizes != self._sizes:
            self._sizes = dict(sizes)
            self._pieces = {name: self._layout(name, size) for name, size in sizes.items()}
            self._long_names = sorted((name for name in sizes if sizes[name] >= self.block // SHORT), key=natural_order)
            self._short = _ShortParameters(
                {name: self._pieces[name] for name in sorted(set(sizes) - set(self._long_names), key=natural_order)}, self._table
            )
        self._sum.start(self._long_names)
        self._kept: dict[str, torch.Tensor] = {}
        self._squares: dict[str, list[torch.Tensor]] = {}

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """See :class:`Projector`."""
        flat = gradient.detach().reshape(-1).float()
        if len(flat) < self.block // SHORT:
            self._kept[name] = flat
            return
        pieces, total, squares = self._pieces[name], self._sum.zeros(), []
        for chunk, piece in zip(flat.split([piece.size for piece in pieces]), pieces, strict=True):
            total[piece.place : piece.place + piece.size].addcmul_(chunk, piece.signs(self._table), value=piece.flip)
            squares.append(torch.dot(chunk, chunk))
        self._squares[name] = squares
        self._sum.add(name, total)

    def finish(self) -> Projected:
        """See :class:`Projector`."""
        joined = self._sum.finish()
        square = self._short.add_to(joined, self._kept)
        squares = [square, *(square for name in sorted(self._squares) for square in self._squares[name])]
        norm = math.sqrt(float(torch.stack(squares).double().sum()))
        self._kept, self._squares = {}, {}
        return Projected(entries_P=self._to_store_dim(joined).cpu(), norm=norm)

    def _layout(self, name: str, size: int) -> list[_Piece]:
        """The pieces of a parameter: up to the end of the sum, then block by block."""
        num_blocks = math.ceil(size / self.block) + 1
        place, *words = noise.words(self.seed, f"layout of {name}", 1 + 2 * num_blocks).tolist()
        place %= self.block
        pieces, done = [], 0
        while done < size:
            run = min(self.block - place, size - done)
            start, flip = words[2 * len(pieces) : 2 * len(pieces) + 2]
            start %= len(self._table) - self.block + 1
            pieces.append(_Piece(place=place, size=run, signs_from=start + place, flip=1.0 if flip >> 31 else -1.0))
            place, done = 0, done + run
        return pieces

    def _to_store_dim(self, joined: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class _ShortParameters:
    """The many parameters with few entries (biases, norms), added to the sum all at once: call by call they would cost more than the rest.

    ``pieces`` are in the order in which they are added.
    """

    def __init__(self, pieces: Mapping[str, Sequence[_Piece]], table: torch.Tensor) -> None:
        runs = [piece for own in pieces.values() for piece in own]
        self._sizes = {name: sum(piece.size for piece in own) for name, own in pieces.items()}
        nothing = torch.zeros(0, device=table.device)
        self._signs = torch.cat([nothing, *(piece.signs(table) * piece.flip for piece in runs)])
        self._places = torch.cat(
            [nothing.long(), *(torch.arange(piece.place, piece.place + piece.size).to(table.device) for piece in runs)]
        )

    def add_to(self, joined: torch.Tensor, gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Add the signed gradients to ``joined`` and give the sum of their squares; a missing one counts as zero."""
        nothing = joined.new_zeros(0)
        flat = torch.cat([nothing, *(gradients.get(name, nothing.new_zeros(size)) for name, size in self._sizes.items())])
        joined.index_add_(0, self._places, flat * self._signs)
        return torch.dot(flat, flat)


class OrderedSum:
    """Adds vectors that arrive in any order, with the same bits for every order: a binary tree over the names, each pair added when both
    are there. Vectors that arrive nearly in order are held a few at a time; their memory is used again.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._device = device
        self._spare: list[torch.Tensor] = []

    def start(self, names: Sequence[str]) -> None:
        """Begin a sum of at most one vector for each name, joined in this order."""
        self._leaf = {name: position for position, name in enumerate(names)}
        self._nodes: dict[tuple[int, int], torch.Tensor] = {}

    def zeros(self) -> torch.Tensor:
        """A vector of zeros to fill and give to :meth:`add`."""
        return self._spare.pop().zero_() if self._spare else torch.zeros(self._size, device=self._device)

    def add(self, name: str, vector: torch.Tensor) -> None:
        """Take in ``vector``, which now belongs to the sum."""
        level, position = 0, self._leaf[name]
        while (other := self._nodes.pop((level, position ^ 1), None)) is not None:
            vector.add_(other)
            self._spare.append(other)
            level, position = level + 1, position >> 1
        self._nodes[level, position] = vector

    def finish(self) -> torch.Tensor:
        """The sum; names that never came count as zero."""
        total = torch.zeros(self._size, device=self._device)
        for node in sorted(self._nodes, key=lambda node: node[1] << node[0]):
            total.add_(self._nodes[node])
            self._spare.append(self._nodes[node])
        self._nodes = {}
        return total


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key of a parameter's name, numbers by value: blocks.2 before blocks.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


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
