"""The key of a study: the arm behind each neutral video name, and the content of every plan. It stays outside the bundle.

The study's id is a hash of the key. It ties a bundle to its key, and result files name it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motive_pipeline.errors import MotiveError
from motive_pipeline.evaluation.preference.pairs import Pair, Shot, Turn
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Publication

FILE = "key.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One step of a plan: the neutral names of the videos on the left and on the right.

    ``first_left`` says whether the left video is that of ``arm_a``, or in a catch trial the good one. ``pair`` is -1 for a catch trial.
    """

    left: str
    right: str
    is_catch: bool
    pair: int
    first_left: bool


class Key:
    """The key as it is stored: videos by neutral name, pairs, and plans."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = dict(body)
        self.study = digest(self.body)[:16]

    @classmethod
    def make(
        cls,
        pairs: Sequence[Pair],
        plans: Sequence[Sequence[Turn]],
        names: Mapping[Shot, str],
        copies: Sequence[tuple[str, str]],
        question: str,
    ) -> Key:
        """``names`` gives each video's neutral name; ``copies`` the names (video, spoilt copy) of each catch trial."""
        shots: dict[str, list[dict[str, Any]]] = {}
        for shot, name in sorted(names.items(), key=lambda entry: (entry[1], entry[0].arm, entry[0].file)):
            shots.setdefault(name, []).append(vars(shot))  # arms that chose the same clips share their trainings and therefore their videos
        return cls(
            {
                "format": FORMAT,
                "question": question,
                "videos": shots,
                "pairs": [
                    {
                        "arm_a": pair.a.arm,
                        "arm_b": pair.b.arm,
                        "prompt": pair.a.prompt,
                        "n": pair.a.n,
                        "a": names[pair.a],
                        "b": names[pair.b],
                    }
                    for pair in pairs
                ],
                "catch": [{"good": good, "spoilt": copy} for good, copy in copies],
                "plans": [[[int(turn.is_catch), turn.index, int(turn.first_left)] for turn in plan] for plan in plans],
            }
        )

    @classmethod
    def of(cls, bundle: Publication) -> Key:
        """The key beside a published bundle.

        Raises:
            MotiveError: it is not the key of the bundle.
        """
        key = cls(json.loads((bundle.folder / FILE).read_text(encoding="utf-8")))
        if key.study != bundle.facts["study"]:
            raise MotiveError(f"{bundle.folder / FILE} has changed: it is not the key of its bundle. Remove {bundle.folder} and run again.")
        return key

    def save(self, folder: Path) -> None:
        """Write the key into ``folder``."""
        atomic.write_json(folder / FILE, self.body)

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Every pair: arm_a, arm_b, prompt, n, and the names of the videos ``a`` and ``b``."""
        return self.body["pairs"]

    @property
    def num_plans(self) -> int:
        """The number of plans."""
        return len(self.body["plans"])

    def plan(self, number: int) -> list[Trial]:
        """The steps of plan ``number``, in order."""
        return [self._trial(bool(is_catch), index, bool(first_left)) for is_catch, index, first_left in self.body["plans"][number]]

    def _trial(self, is_catch: bool, index: int, first_left: bool) -> Trial:
        entry = self.body["catch"][index] if is_catch else self.body["pairs"][index]
        first, second = (entry["good"], entry["spoilt"]) if is_catch else (entry["a"], entry["b"])
        left, right = (first, second) if first_left else (second, first)
        return Trial(left=left, right=right, is_catch=is_catch, pair=-1 if is_catch else index, first_left=first_left)

    def prompt(self, trial: Trial) -> str:
        """The caption of a trial."""
        if not trial.is_catch:
            return self.pairs[trial.pair]["prompt"]
        return self.body["videos"][trial.left if trial.first_left else trial.right][0]["prompt"]
