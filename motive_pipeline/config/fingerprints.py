"""The fingerprint of each stage: a hash of the settings that the stage depends on and of its code version.

Where a setting names a file, the file's content counts and not only its name. What is too large to read for every command counts by size
and time of change.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from motive_pipeline.config.comparison import Evaluate, VBench
from motive_pipeline.config.method import AllTracker
from motive_pipeline.config.schema import Settings
from motive_pipeline.config.section import AUTO
from motive_pipeline.config.timesteps import USUAL_TIMESTEP
from motive_pipeline.graph.declare import Switch
from motive_pipeline.graph.metrics import CAUSAL_VERSION, INTERVAL_VERSION, video_metric_versions
from motive_pipeline.graph.stages import FRAMES_VERSION, STAGES
from motive_pipeline.pinned import ALLTRACKER, code_content, file_content


class Config(Settings):
    """Every setting of one project, and the fingerprints of its stages."""

    def of_lane(self, stage: str, lane: str) -> Config:
        """The settings as they are for a lane (variant or arm) of a stage; the project's own for a stage without lanes, or without ``lane``."""
        lanes = STAGES[stage].lanes
        return lanes.settings(self, lane) if lanes and lane else self

    def stage_settings(self, stage: str, lane: str = "") -> dict[str, Any]:
        """The settings that decide what a row of ``stage`` (in ``lane``) holds, by dotted key.

        The prompt file and AllTracker's code and weights count by content. The file of Adam's state, which may be as large as the model,
        counts by size and time of change.
        """
        if (own := self.of_lane(stage, lane)) is not self:
            return own.stage_settings(stage)
        declared = STAGES[stage]
        further = [key for switch, keys in declared.when.items() if self._holds(switch) for key in keys]
        settings = {key: self.setting(key) for key in (*declared.settings, *further)}
        for section, key in ((settings, "gradient.timestep"), (settings.get("gradient", {}), "timestep")):
            if section.get(key) == AUTO:
                section[key] = USUAL_TIMESTEP  # the same, wherever a model allows it; one that does not is told apart by its hash
        if declared.reads_frames:
            settings["frames"] = FRAMES_VERSION
        if "preference.comparisons" in settings:
            settings["preference.comparisons"] = [list(pair) for pair in self.comparisons]
        if settings.get("influence.adam_state") is not None and (file := Path(settings["influence.adam_state"])).is_file():
            settings["influence.adam_state"] = [str(file), file.stat().st_size, file.stat().st_mtime_ns]
        if "motion.alltracker" in settings:
            settings["motion.alltracker"] = _alltracker_content(self.motion.alltracker)
        if "subset" in settings:
            settings["subset"].pop("edits")  # the arm `edited` alone depends on it; see publish_settings
        if "generate" in settings and self.generate.prompts is not None and self.generate.prompts.is_file():
            settings["generate"]["prompts"] = hashlib.sha256(self.generate.prompts.read_bytes()).hexdigest()
        return settings

    def _holds(self, switch: Switch) -> bool:
        if callable(switch):
            return switch(self)
        key, value = switch
        found = self.setting(key)
        return value in found if isinstance(found, list | tuple) else found == value

    def publish_settings(self, stage: str, lane: str = "") -> dict[str, Any]:
        """The settings that decide what ``stage`` (in ``lane``) publishes, or whether it may, and leave its rows as they are, by dotted key.

        The edits file counts by content. An encoder's folder counts by the names, sizes and times of its files: noticing a change must not take reading it.
        """
        if (own := self.of_lane(stage, lane)) is not self:
            return own.publish_settings(stage)
        settings = {key: self.setting(key) for key in STAGES[stage].publish_settings}
        if (lanes := STAGES[stage].lanes) and lane:
            settings |= lanes.choice(self, lane)
        if "subset.edits" in settings:
            settings["subset.edits"] = hashlib.sha256(self.edits_file.read_bytes()).hexdigest() if self.edits_file.is_file() else None
        if "embedding" in settings and (folder := Path(self.embedding.encoder)).is_dir():
            stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
            settings["embedding"]["encoder"] = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        if "evaluate" in settings:
            settings |= {
                "evaluate": _evaluate_content(self.evaluate),
                "metrics": video_metric_versions(),
                "intervals": INTERVAL_VERSION,
                "causal": CAUSAL_VERSION,
                "frames": FRAMES_VERSION,
            }
        return settings

    def row_fingerprint(self, stage: str, lane: str = "") -> str:
        """16 hex digits over what decides a row: the stage's settings and its code version. Nothing from upstream enters."""
        return _fingerprint(stage, self.stage_settings(stage, lane))

    def fingerprint(self, stage: str, lane: str = "") -> str:
        """16 hex digits over all settings of the stage (in ``lane``), those of publishing included, and its code version."""
        return _fingerprint(stage, self.stage_settings(stage, lane) | self.publish_settings(stage, lane))


def _fingerprint(stage: str, settings: dict[str, Any]) -> str:
    body = {"stage": stage, "version": STAGES[stage].version, "settings": settings}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _alltracker_content(alltracker: AllTracker) -> dict[str, Any]:
    """What decides the network: variant, iterations, and code and weights by content (by path while the files are missing)."""
    code, weights = ALLTRACKER.code.content, ALLTRACKER.files["alltracker.pth"].sha256
    if alltracker.repo is not None:
        code = code_content(alltracker.repo) if alltracker.repo.is_dir() else str(alltracker.repo)
    if alltracker.checkpoint is not None:
        weights = file_content(alltracker.checkpoint) if alltracker.checkpoint.is_file() else str(alltracker.checkpoint)
    return {"variant": alltracker.variant, "iters": alltracker.iters, "repo": code, "checkpoint": weights}


def _vbench_content(vbench: VBench) -> dict[str, Any]:
    """What decides VBench's numbers. The weights, which may be gigabytes, count by size and time of each file."""
    folder = vbench.weights_folder
    found = sorted(path for pattern in ("*.pt", "*.pth") for path in folder.rglob(pattern) if path.is_file())
    stats = [[path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    return vbench.model_dump(mode="json", exclude={"weights", "timeout_s"}) | {"weights": stats}


def _evaluate_content(evaluate: Evaluate) -> dict[str, Any]:
    """What decides the published scores. VBench's settings count only where it runs."""
    vbench = {"vbench": _vbench_content(evaluate.vbench)} if evaluate.backend == "vbench" else {}
    return evaluate.model_dump(mode="json", exclude={"vbench"}) | vbench
