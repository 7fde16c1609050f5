"""Signed blocks of a gradient summed into one vector while backward runs: what the projections of projection.py have in common.

The randomness is a function of (seed, parameter name, flat index). Each parameter is summed by itself, in the order of its blocks, and the
sums are joined by a tree over the names: the result has the same bits in whatever order the gradients arrive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float

from motive_pipeline.attribution import noise

SIGN_BLOCKS = 4
"""The table of signs holds this many blocks."""
SHORT = 8
"""A parameter with fewer than a block / ``SHORT`` entries is kept until the end of the pass."""


class Piece(NamedTuple):
    """A run of a parameter's entries within one block: its place in the sum, and where and with which factor its signs are."""

    place: int
    size: int
    signs_from: int
    flip: float

    def signs(self, table: torch.Tensor) -> torch.Tensor:
        """The signs of the run, but for ``flip``."""
        return table[self.signs_from : self.signs_from + self.size]


class SignedSum:
    """The sum B x of a gradient's signed blocks of ``block`` entries, and the gradient's length.

    Entry j of a parameter belongs to place (o + j) mod ``block`` of the sum, o random for each parameter, so that short ones do not crowd in
    one corner. The sign of the entry at place i of a block is f * table[s + i]: ``table`` holds random signs (one for all parameters), and
    each block of each parameter has its own random start s and flip f. Two entries that meet in the sum have independent signs, and two
    pairs of blocks uncorrelated products of signs, so the variance of an inner product is that of fully independent signs plus at most
    |x|^2 |y|^2 / len(table), from blocks that happen to share a start. It costs one multiply-add an entry and a few bytes a block.
    """

    def __init__(self, *, block: int, seed: int, device: torch.device) -> None:
        self.block = block
        self.seed = seed
        self._table = noise.signs(seed, "signs", SIGN_BLOCKS * block).to(device)
        self._sizes: dict[str, int] = {}
        self._sum = OrderedSum(block, device)

    def start(self, sizes: Mapping[str, int]) -> None:
        """Begin a gradient over the parameters named in ``sizes``, each with its number of entries."""
        if sizes != self._sizes:
            self._sizes = dict(sizes)
            self._pieces = {name: self._layout(name, size) for name, size in sizes.items()}
            self._long_names = sorted((name for name in sizes if sizes[name] >= self.block // SHORT), key=natural_order)
            self._short = ShortParameters(
                {name: self._pieces[name] for name in sorted(set(sizes) - set(self._long_names), key=natural_order)}, self._table
            )
        self._sum.start(self._long_names)
        self._kept: dict[str, torch.Tensor] = {}
        self._squares: dict[str, list[torch.Tensor]] = {}

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Take in the gradient of one parameter, once for each name."""
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

    def finish(self) -> tuple[Float[torch.Tensor, " block"], float]:
        """The sum, and the length of the whole gradient; a parameter that never came counts as zero."""
        joined = self._sum.finish()
        square = self._short.add_to(joined, self._kept)
        squares = [square, *(square for name in sorted(self._squares) for square in self._squares[name])]
        norm = math.sqrt(float(torch.stack(squares).double().sum()))
        self._kept, self._squares = {}, {}
        return joined, norm

    def _layout(self, name: str, size: int) -> list[Piece]:
        """The pieces of a parameter: up to the end of the sum, then block by block."""
        num_blocks = math.ceil(size / self.block) + 1
        place, *words = noise.words(self.seed, f"layout of {name}", 1 + 2 * num_blocks).tolist()
        place %= self.block
        pieces, done = [], 0
        while done < size:
            run = min(self.block - place, size - done)
            start, flip = words[2 * len(pieces) : 2 * len(pieces) + 2]
            start %= len(self._table) - self.block + 1
            pieces.append(Piece(place=place, size=run, signs_from=start + place, flip=1.0 if flip >> 31 else -1.0))
            place, done = 0, done + run
        return pieces


class ShortParameters:
    """The many parameters with few entries (biases, norms), added to the sum all at once: call by call they would cost more than the rest.

    ``pieces`` are in the order in which they are added.
    """

    def __init__(self, pieces: Mapping[str, Sequence[Piece]], table: torch.Tensor) -> None:
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
