"""Which videos are shown side by side, and to whom: pairs of two arms, and plans in which people go through them.

Everything is drawn by content hashes and a seed, so that the same videos and settings give the same study on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from motive_pipeline.storage.digest import digest

SceneKey = tuple[str, int, int]
"""Prompt, number of the video, sampling seed: what both sides of a pair share."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One generated video of one arm."""

    arm: str
    training: int
    prompt: str
    n: int
    file: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two arms' videos of the same prompt and sampling seed."""

    a: Shot
    b: Shot


@dataclass(frozen=True, kw_only=True)
class UnpairedVideo:
    """A video that has no counterpart in the other arm."""

    shot: Shot
    missing_in: str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One step of a plan: pair (or catch trial) number ``index``, and whether its first video stands on the left."""

    index: int
    first_left: bool
    is_catch: bool = False


def pair_up(
    comparisons: Sequence[tuple[str, str]], videos: Mapping[str, pd.DataFrame], *, prompt_limit: int | None, seed: int
) -> tuple[list[Pair], list[UnpairedVideo]]:
    """Every pair of the study, and the videos that have no counterpart.

    ``videos`` holds each arm's table (training, prompt, n, sampling_seed, file). The order is made for dealing: it runs through all scenes
    once for each comparison, and takes the comparisons in turn, so that any stretch of it has few scenes twice and all comparisons about
    equally often. Where arms have several trainings, the scenes take them in turn, and training k stands beside training k.
    """
    shots = {arm: _by_scene(arm, table) for arm, table in videos.items()}
    scenes = _scenes(shots, prompt_limit, seed)
    pairs: list[Pair] = []
    gaps: list[UnpairedVideo] = []
    for turn in range(len(comparisons)):
        for position, scene in enumerate(scenes):
            arm_a, arm_b = comparisons[(position + turn) % len(comparisons)]
            of_a, of_b = shots[arm_a].get(scene, {}), shots[arm_b].get(scene, {})
            options = _same_training(of_a, of_b)
            if options:
                pairs.append(options[position % len(options)])
            else:
                gaps += [UnpairedVideo(shot=shot, missing_in=other) for shot, other in _unpaired(of_a, arm_b, of_b, arm_a)]
    return pairs, gaps


def deal(pairs: Sequence[Pair], *, num_catch: int, pairs_per_rater: int, plans: int, seed: int) -> list[list[Turn]]:
    """The plans: which pairs each person sees, in which order, with which video on the left.

    The pairs are dealt out one plan after the other, so that none is dealt twice before all were dealt once. Within a plan each
    comparison has either arm on the left equally often (give or take two), over the plans each pair does (give or take one). Catch trials are
    spread over the plan, their sides in turn.
    """
    size = min(pairs_per_rater, len(pairs))
    rank = _rank_within_comparison(pairs)
    dealt = []
    for plan in range(plans):
        turns = []
        for number in range(plan * size, (plan + 1) * size):
            deck, index = divmod(number, len(pairs))
            turns.append(Turn(index=index, first_left=(rank[index] + deck + seed) % 2 == 0))
        turns.sort(key=lambda turn: digest("order", seed, plan, turn.index))
        dealt.append(_with_catch_trials(turns, num_catch, plan, seed))
    return dealt


def catch_trials_wanted(share: float, num_pairs: int) -> int:
    """Catch trials for a person who sees ``num_pairs`` pairs: the share of them, and one at least unless the share is 0."""
    return max(1, round(share * num_pairs)) if share > 0 and num_pairs else 0


def _by_scene(arm: str, table: pd.DataFrame) -> dict[SceneKey, dict[int, Shot]]:
    """scene -> training -> the arm's video."""
    found: dict[SceneKey, dict[int, Shot]] = {}
    columns = (table[name].tolist() for name in ("training", "prompt", "n", "sampling_seed", "file"))
    for training, prompt, n, sampling_seed, file in zip(*columns, strict=True):
        shot = Shot(arm=arm, training=int(training), prompt=str(prompt), n=int(n), file=str(file))
        found.setdefault((shot.prompt, shot.n, int(sampling_seed)), {})[shot.training] = shot
    return found


def _scenes(shots: Mapping[str, Mapping[SceneKey, object]], prompt_limit: int | None, seed: int) -> list[SceneKey]:
    """The scenes of the prompts drawn, in an order of their own."""
    scenes = {scene for of_arm in shots.values() for scene in of_arm}
    prompts = sorted({prompt for prompt, _, _ in scenes}, key=lambda prompt: digest("prompt", seed, prompt))[:prompt_limit]
    return sorted((scene for scene in scenes if scene[0] in set(prompts)), key=lambda scene: digest("scene", seed, list(scene)))


def _same_training(of_a: Mapping[int, Shot], of_b: Mapping[int, Shot]) -> list[Pair]:
    """The pairs that a scene offers; an arm with one video (``base`` trains nothing) stands beside each of the other's."""
    if len(of_a) > 1 and len(of_b) > 1:
        return [Pair(a=of_a[training], b=of_b[training]) for training in sorted(of_a.keys() & of_b.keys())]
    return [Pair(a=of_a[first], b=of_b[second]) for first in sorted(of_a) for second in sorted(of_b)]


def _unpaired(of_a: Mapping[int, Shot], arm_b: str, of_b: Mapping[int, Shot], arm_a: str) -> list[tuple[Shot, str]]:
    return [(shot, arm_b) for shot in of_a.values()] + [(shot, arm_a) for shot in of_b.values()]


def _rank_within_comparison(pairs: Sequence[Pair]) -> list[int]:
    seen: Counter[tuple[str, str]] = Counter()
    ranks = []
    for pair in pairs:
        comparison = (pair.a.arm, pair.b.arm)
        ranks.append(seen[comparison])
        seen[comparison] += 1
    return ranks


def _with_catch_trials(turns: list[Turn], num_catch: int, plan: int, seed: int) -> list[Turn]:
    """``turns`` with a catch trial somewhere in each of ``num_catch`` equal stretches."""
    mixed: list[Turn] = []
    for number in range(num_catch):
        start, end = number * len(turns) // num_catch, (number + 1) * len(turns) // num_catch
        place = start + int(digest("catch", seed, plan, number)[:8], 16) % max(1, end - start)
        catch = Turn(index=(number + plan) % num_catch, first_left=(number + plan) % 2 == 0, is_catch=True)
        mixed += [*turns[start:place], catch, *turns[place:end]]
    return mixed if num_catch else turns
