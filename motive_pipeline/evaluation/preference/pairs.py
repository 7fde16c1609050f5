"""Which videos raters see side by side: pairs of two arms' videos, and plans with the order of the pairs for each rater.

All choices depend on content hashes and a seed, so the same videos and settings give the same study on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from motive_pipeline.storage.digest import digest

SceneKey = tuple[str, int, int]
"""Prompt, number of the video, sampling seed: what both videos of a pair share."""


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
    """Videos of two arms with the same prompt and sampling seed."""

    a: Shot
    b: Shot


@dataclass(frozen=True, kw_only=True)
class UnpairedVideo:
    """A video without a counterpart in the other arm."""

    shot: Shot
    missing_in: str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One step of a plan: the pair (or catch trial) number ``index``, and whether its first video is on the left."""

    index: int
    first_left: bool
    is_catch: bool = False


def pair_up(
    comparisons: Sequence[tuple[str, str]], videos: Mapping[str, pd.DataFrame], *, prompt_limit: int | None, seed: int
) -> tuple[list[Pair], list[UnpairedVideo]]:
    """Every pair of the study, and the videos without a counterpart.

    ``videos`` holds each arm's table (training, prompt, n, sampling_seed, file). The order suits :func:`deal`: it goes through all scenes once
    for each comparison and alternates between comparisons, so that any part of it repeats few scenes and has all comparisons about equally
    often. If arms have several trainings, the scenes alternate between them, and training k is paired with training k.
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
    """The plans: which pairs a rater sees, in which order, and with which video on the left.

    Pairs are dealt one plan after the other: none is dealt twice before all are dealt once. Within a plan each arm of a comparison is on the
    left equally often (up to a difference of two), and over all plans each video of a pair is (up to one). Catch trials are spread over the
    plan with alternating sides.
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
    """The number of catch trials among ``num_pairs`` pairs: the share of them, at least one unless the share is 0."""
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
    """The scenes of the selected prompts, in a seeded order."""
    scenes = {scene for of_arm in shots.values() for scene in of_arm}
    prompts = sorted({prompt for prompt, _, _ in scenes}, key=lambda prompt: digest("prompt", seed, prompt))[:prompt_limit]
    return sorted((scene for scene in scenes if scene[0] in set(prompts)), key=lambda scene: digest("scene", seed, list(scene)))


def _same_training(of_a: Mapping[int, Shot], of_b: Mapping[int, Shot]) -> list[Pair]:
    """The possible pairs of a scene. An arm with one video (``base`` has no training) is paired with every video of the other arm."""
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
    """``turns`` with one catch trial at a random place in each of ``num_catch`` equal parts."""
    mixed: list[Turn] = []
    for number in range(num_catch):
        start, end = number * len(turns) // num_catch, (number + 1) * len(turns) // num_catch
        place = start + int(digest("catch", seed, plan, number)[:8], 16) % max(1, end - start)
        catch = Turn(index=(number + plan) % num_catch, first_left=(number + plan) % 2 == 0, is_catch=True)
        mixed += [*turns[start:place], catch, *turns[place:end]]
    return mixed if num_catch else turns
