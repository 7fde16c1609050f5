"""Best-first picks from one or several orders of the same clips, under limits. Knows numbers only: a clip is its position.

Axis suffixes: N clips, C orders (categories and the rest).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a clip was refused: a word, the chosen clip that it gave way to, and a sentence."""

    reason: str
    other: int
    detail: str


@runtime_checkable
class Limit(Protocol):
    """Refuses clips that do not go together with those chosen before. What it refuses once it must refuse ever after."""

    def refusal(self, position: int) -> Refusal | None:
        """Why the clip cannot be chosen now; None if it can."""
        ...

    def add(self, position: int) -> None:
        """The clip is chosen."""
        ...


@dataclass(frozen=True, kw_only=True)
class Picked:
    """The clips in the order in which they were picked, the order that each was picked from, and the clips that limits refused. ``amount`` is the sum of
    their lengths."""

    positions: Sequence[int]
    orders: Sequence[int]
    refused: Sequence[tuple[int, Refusal]]
    amount: int


def pick(
    orders: Sequence[Int64[np.ndarray, " n"]],
    turns: Iterator[int],
    limits: Sequence[Limit],
    *,
    length_N: Int64[np.ndarray, " N"],
    most: int,
) -> Picked:
    """Pick clips until their lengths (1 for each clip, or frames) would exceed ``most``, or no clip is left. At least one is picked, however long, if there is one.

    ``orders`` are the same positions, each best first; ``turns`` says which of them the next clip is picked from: its first clip that is neither picked
    nor refused. The first clip that does not fit ends it, so a smaller ``most`` picks the first of the same clips.
    """
    is_free_N = np.zeros(len(length_N), dtype=bool)
    is_free_N[orders[0]] = True
    waiting = [iter(order.tolist()) for order in orders]
    positions, picked_from, refused, amount = [], [], [], 0
    for turn in turns:
        if amount >= most:
            break
        for position in waiting[turn]:
            if not is_free_N[position]:
                continue
            is_free_N[position] = False
            refusal = next((found for limit in limits if (found := limit.refusal(position)) is not None), None)
            if refusal is None:
                break
            refused.append((position, refusal))
        else:
            break
        if positions and amount + int(length_N[position]) > most:
            break
        positions.append(position)
        picked_from.append(turn)
        amount += int(length_N[position])
        for limit in limits:
            limit.add(position)
    return Picked(positions=positions, orders=picked_from, refused=refused, amount=amount)


def fair_turns(shares: Sequence[Fraction]) -> Iterator[int]:
    """Whose turn it is, without end: after any number of turns each has had its share of them, to within less than one turn. ``shares`` add up to 1.

    This is Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32, 1980): among those whose next turn has come, the one whose
    turn must come soonest; the first of equals.
    """
    taking = [place for place, share in enumerate(shares) if share]
    if len(taking) == 1:
        while True:
            yield taking[0]
    scale = lcm(*(share.denominator for share in shares))
    part = {place: int(shares[place] * scale) for place in taking}
    had = dict.fromkeys(taking, 0)
    ahead = 2 * len(taking) - 2
    turn = 0
    while True:
        turn += 1
        owed = {place: ahead * (turn * part[place] - scale * had[place]) for place in taking}
        ready = (place for place in taking if owed[place] >= scale)
        chosen = min(ready, key=lambda place: Fraction((ahead - 1) * scale - owed[place], part[place]))
        had[chosen] += 1
        yield chosen
