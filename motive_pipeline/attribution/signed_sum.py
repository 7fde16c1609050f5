"""Sums the signed blocks of a gradient into one vector while backward runs: the first half of the projections of projection.py.

The randomness is a function of (seed, parameter name, flat index). Each parameter is summed separately, in the order of its blocks, and the sums
are joined by a tree over the names. So the result has the same bits for any order in which the gradients arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float

from motive_pipeline.attribution import noise

SIGN_BLOCKS = 4
"""The table of signs holds this many blocks."""
SHORT = 8
"""A parameter with fewer than a block / ``SHORT`` entries is kept until the end of the pass."""
GROUP = 32
"""On a GPU, this many whole blocks are signed by the same few kernels: launching a kernel costs more than a block's arithmetic."""


class Piece(NamedTuple):
    """A run of a parameter's entries within one block: its place in the sum, where its signs start in the table, and their flip."""

    place: int
    size: int
    signs_from: int
    flip: float

    def signs(self, table: torch.Tensor) -> torch.Tensor:
        """The signs of the run, without ``flip``."""
        return table[self.signs_from : self.signs_from + self.size]


class SignedSum:
    """The sum B x of a gradient's signed blocks of ``block`` entries, and the gradient's length.

    Entry j of a parameter is added at place (o + j) mod ``block`` of the sum. The offset o is random for each parameter, so that short ones
    spread over the whole sum. The sign of the entry at place i of a block is f * table[s + i]: all parameters share ``table``, which holds random
    signs; each block of each parameter has its own random start s and flip f. Two entries added at the same place have independent signs, and
    two pairs of blocks have uncorrelated products of signs. So the variance of an inner product is that of fully independent signs plus at most
    |x|^2 |y|^2 / len(table), from blocks that happen to share a start. The cost is one multiply-add per entry and a few bytes per block.

    ``grouped``: add blocks in groups, which suits a GPU (the default there), instead of one by one while they are in a processor's cache. The
    two ways differ by rounding only.
    """

    def __init__(self, *, block: int, seed: int, device: torch.device, grouped: bool | None = None) -> None:
        self.block = block
        self.seed = seed
        self.grouped = device.type != "cpu" if grouped is None else grouped
        self._table = noise.signs(seed, "signs", SIGN_BLOCKS * block).to(device)
        self._sizes: dict[str, int] = {}
        self._sum = OrderedSum(block, device)

    def start(self, sizes: Mapping[str, int]) -> None:
        """Begin a gradient over the parameters named in ``sizes``, each with its number of entries."""
        if sizes != self._sizes:
            self._sizes = dict(sizes)
            self._pieces = {name: self._layout(name, size) for name, size in sizes.items()}
            if self.grouped:
                self._whole = {name: WholeBlocks.among(own, self._table, self.block) for name, own in self._pieces.items()}
            self._long_names = sorted((name for name in sizes if sizes[name] >= self.block // SHORT), key=natural_order)
            self._short = ShortParameters(
                {name: self._pieces[name] for name in sorted(set(sizes) - set(self._long_names), key=natural_order)}, self._table
            )
        self._sum.start(self._long_names)
        self._kept: dict[str, torch.Tensor] = {}
        self._squares: dict[str, list[torch.Tensor]] = {}

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Add the gradient of one parameter, at most once for each name."""
        flat = gradient.detach().reshape(-1).float()
        if len(flat) < self.block // SHORT:
            self._kept[name] = flat
            return
        total = self._sum.zeros()
        chunks = self._add_groups(total, name, flat) if self.grouped else self._add_pieces(total, self._pieces[name], flat)
        self._squares[name] = [torch.dot(chunk, chunk) for chunk in chunks]
        self._sum.add(name, total)

    def _add_pieces(self, total: torch.Tensor, pieces: Sequence[Piece], flat: torch.Tensor) -> Iterator[torch.Tensor]:
        """Add the signed ``pieces`` of ``flat`` to ``total``, and yield each while it is in the processor's cache."""
        for chunk, piece in zip(flat.split([piece.size for piece in pieces]), pieces, strict=True):
            total[piece.place : piece.place + piece.size].addcmul_(chunk, piece.signs(self._table), value=piece.flip)
            yield chunk

    def _add_groups(self, total: torch.Tensor, name: str, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        """The same, with :data:`GROUP` whole blocks at a time."""
        pieces, whole = self._pieces[name], self._whole[name]
        parts = pieces[: whole.first], pieces[whole.first : whole.stop], pieces[whole.stop :]
        before, middle, after = flat.split([sum(piece.size for piece in part) for part in parts])
        yield from self._add_pieces(total, parts[0], before)
        windows = self._table.unfold(0, self.block, 1)
        groups = (each.split(GROUP) for each in (middle.view(-1, self.block), whole.signs_from_B, whole.flip_B))
        for blocks_BK, signs_from_B, flip_B in zip(*groups, strict=True):
            total.addmv_(windows[signs_from_B].mul_(blocks_BK).T, flip_B)
            yield blocks_BK.reshape(-1)
        yield from self._add_pieces(total, parts[2], after)

    def finish(self) -> tuple[Float[torch.Tensor, " block"], float]:
        """The sum, and the length of the whole gradient. A parameter that was not added counts as zero."""
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


class WholeBlocks(NamedTuple):
    """The pieces of a parameter that fill a block: numbers ``first`` to ``stop`` - 1. At most its first and its last piece do not."""

    first: int
    stop: int
    signs_from_B: torch.Tensor
    flip_B: torch.Tensor

    @classmethod
    def among(cls, pieces: Sequence[Piece], table: torch.Tensor, block: int) -> WholeBlocks:
        """The whole blocks of one parameter."""
        numbers = [number for number, piece in enumerate(pieces) if piece.size == block]
        return cls(
            first=numbers[0] if numbers else len(pieces),
            stop=numbers[-1] + 1 if numbers else len(pieces),
            signs_from_B=torch.tensor([pieces[number].signs_from for number in numbers], dtype=torch.int64, device=table.device),
            flip_B=torch.tensor([pieces[number].flip for number in numbers], dtype=table.dtype, device=table.device),
        )


class ShortParameters:
    """The many parameters with few entries (biases, norms), added to the sum in one step: one by one they would cost more than all others.

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
        """Add the signed gradients to ``joined``; returns the sum of their squares. A missing gradient counts as zero."""
        nothing = joined.new_zeros(0)
        flat = torch.cat([nothing, *(gradients.get(name, nothing.new_zeros(size)) for name, size in self._sizes.items())])
        joined.index_add_(0, self._places, flat * self._signs)
        return torch.dot(flat, flat)


class OrderedSum:
    """Adds vectors that arrive in any order, with the same bits for every order. It uses a binary tree over the names and adds each pair when
    both are there. If vectors arrive nearly in order, few are held at a time; their memory is reused.
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
        """A vector of zeros to fill and pass to :meth:`add`."""
        return self._spare.pop().zero_() if self._spare else torch.zeros(self._size, device=self._device)

    def add(self, name: str, vector: torch.Tensor) -> None:
        """Add ``vector``, which the sum now owns."""
        level, position = 0, self._leaf[name]
        while (other := self._nodes.pop((level, position ^ 1), None)) is not None:
            vector.add_(other)
            self._spare.append(other)
            level, position = level + 1, position >> 1
        self._nodes[level, position] = vector

    def finish(self) -> torch.Tensor:
        """The sum. Names that were not added count as zero."""
        total = torch.zeros(self._size, device=self._device)
        for node in sorted(self._nodes, key=lambda node: node[1] << node[0]):
            total.add_(self._nodes[node])
            self._spare.append(self._nodes[node])
        self._nodes = {}
        return total


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key of a parameter's name, numbers by value: blocks.2 before blocks.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
