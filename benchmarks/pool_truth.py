"""What each kind of clip in the demo's pool does to the held-out loss, and which kinds each way to choose takes.

    python -m benchmarks.pool_truth --split spoiled --seed 0 --trainings 2 --variants motive no_mask motive_plus

Of each kind the same number of clips is trained on by the fine-tuning loop of all arms, with the settings below, and the drop of the motion-weighted
loss on the held-out queries is printed, in % of the base model's. So that a clip helps or hurts is measured, not decreed. The kinds are, by the generator's own
record: good (the queries' motion, without a flaw), spoiled (the queries' motion with a flaw; also each flaw by itself), akin (another motion on the queries'
background) and rest. Then follow the pool as a whole, and what each variant, flow similarity, magnitude and chance choose, with the kinds among it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.common import demo_settings, parsed_overrides, parsed_variants
from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.attribution.influence import publish_influence
from motive_pipeline.attribution.second_moments import publish_second_moments
from motive_pipeline.attribution.stage import publish_gradients
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.config import load_config
from motive_pipeline.curation.controls import flow_similarity_features
from motive_pipeline.curation.pool import publish_eligible_pool
from motive_pipeline.curation.vote import num_selected, publish_ranking
from motive_pipeline.demo.folder import demo_folder
from motive_pipeline.graph import Role
from motive_pipeline.latents.stage import LatentSet, publish_latents
from motive_pipeline.models.load import load_model, model_folder
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.loop import finetune
from motive_pipeline.training.trainings import clips_by_shape

PROTOCOL = {
    "steps": 100, "batch_size": 16, "learning_rate": 5e-5, "schedule": "cosine", "warmup_share": 0.1, "ema": 0.95, "timesteps": "stratified",
}  # fmt: skip
"""Small steps, stratified timesteps and a running mean: with these, training on the right clips lowers the loss (docs/evaluation.md)."""

ROLES: tuple[Role, ...] = ("clip", "query")

FLAWLESS = ("good", "akin", "rest")
"""Kinds of clips without a flaw: the queries' motion, another motion on the queries' background, and all others."""


def prepared(folder: Path, arguments: argparse.Namespace, variants: Mapping[str, Any]) -> Workspace:
    """The demo of one seed, run up to the rankings of the variants; what is published already is kept."""
    overrides = {"clips.demo.num_clips": arguments.clips, "engine.threads": 1, "gradient.draws_at_once": 16}
    overrides |= {f"finetune.{key}": value for key, value in PROTOCOL.items()} | parsed_overrides(arguments.set)
    settings = demo_settings(seed=arguments.seed, split=arguments.split, overrides=overrides)
    settings |= {"arms": ["motive"], "lead_arm": "motive"}
    settings["variants"] = {name: changes for name, changes in variants.items() if name != "motive"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "motive.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    ws = Workspace(load_config(folder / "motive.yaml"))
    publish_query_catalog(ws)
    publish_clip_catalog(ws)
    for role in ROLES:
        publish_latents(ws, role=role)
        publish_motion_masks(ws, role=role)
    publish_eligible_pool(ws)
    if "second_moments" in ws.graph.assets:
        publish_second_moments(ws)
    for variant in variants:
        for role in ROLES:
            publish_gradients(ws, variant=variant, role=role)
        publish_influence(ws, variant)
        publish_ranking(ws, variant)
    return ws


def kinds_of(ws: Workspace) -> dict[str, str]:
    """The kind of each clip of the pool, by clip id; a flaw counts as its own kind."""
    rows = pd.read_parquet(demo_folder(ws) / "truth.parquet").to_dict("records")
    query = next(row for row in rows if row["role"] == "query")
    found: dict[str, str] = {}
    for row in rows:
        if row["role"] == "clip":
            is_akin = row["background_colour"] == query["background_colour"]
            plain = "good" if row["motion"] == query["motion"] else "akin" if is_akin else "rest"
            found[str(row["clip_id"])] = row["flaw"] if isinstance(row["flaw"], str) else plain
    return dict(sorted(found.items()))


def orders(ws: Workspace, variants: Sequence[str], clip_ids: Sequence[str]) -> dict[str, Sequence[str]]:
    """The clips in the order in which each way to choose prefers them."""
    found: dict[str, Sequence[str]] = {}
    for variant in variants:
        ranking = ws.published(f"voted_ranking/{variant}").table("ranking")
        found[f"{variant}, vote"] = ranking.sort_values("rank")["clip_id"].tolist()
        found[f"{variant}, mean influence"] = ranking.sort_values("mean_influence", ascending=False)["clip_id"].tolist()
    clips, queries = (flow_similarity_features(ws, role) for role in ROLES)
    similarity = np.stack([clips[each] for each in clip_ids]) @ np.stack(list(queries.values())).T
    found["flow similarity"] = [clip_ids[int(place)] for place in np.argsort(-similarity.mean(axis=1), kind="stable")]
    index = ws.published("motion_masks").table("index")
    found["most motion"] = index.sort_values("motion_magnitude_px", ascending=False)["clip_id"].tolist()
    found["random"] = [clip_ids[int(place)] for place in np.random.default_rng(0).permutation(len(clip_ids))]
    return found


class Trainings:
    """Trains on sets of clips and says how far the held-out loss falls, in %."""

    def __init__(self, ws: Workspace, num_trainings: int) -> None:
        self._ws, self._num = ws, num_trainings
        self._latents, self._held_out = LatentSet(ws, "clip"), HeldOutLoss(ws)
        self._base = self._held_out.mean(self._model())

    def _model(self):
        return load_model(self._ws.config.model, threads=self._ws.config.engine.threads, path=model_folder(self._ws.config.model))

    def drops(self, clip_ids: Sequence[str]) -> list[float]:
        """The drop after each training on ``clip_ids``."""
        clips = clips_by_shape(sorted(clip_ids), self._latents, asset="pool_truth", chosen_by="the pool")
        found = []
        for training in range(self._num):
            model = self._model()
            finetune(model, clips, self._latents.get, self._ws.config.finetune, training=training)
            found.append(100 * (1 - self._held_out.mean(model) / self._base))
        return found


def groups(kinds: Mapping[str, str], count: int, flaws: Sequence[str]) -> dict[str, list[str]]:
    """At most ``count`` clips of each kind, of all flaws together, and of mixtures; and the whole pool."""
    rng = np.random.default_rng(0)

    def some(wanted: Sequence[str], number: int) -> list[str]:
        ids = [clip_id for clip_id, kind in kinds.items() if kind in wanted]
        return [ids[int(place)] for place in rng.permutation(len(ids))[:number]]

    found = {kind: some([kind], count) for kind in ("good", *flaws, "akin", "rest")}
    if flaws:
        found["spoiled"] = some(flaws, count)
        found["half good, half spoiled"] = [*some(["good"], count // 2), *some(flaws, count // 2)]
        found[f"good, as few as {flaws[0]}"] = some(["good"], len(found[flaws[0]]))
    found["half good, half akin"] = [*some(["good"], count // 2), *some(["akin"], count // 2)]
    return {name: ids for name, ids in found.items() if ids} | {"full": list(kinds)}


def main() -> None:
    """Print one line for each set of clips."""
    arguments = parse_arguments()
    variants = parsed_variants(arguments.variants)
    ws = prepared(Path(arguments.folder) / f"{arguments.split}-{arguments.seed}-{arguments.clips}", arguments, variants)
    kinds = kinds_of(ws)
    flaws = sorted(set(kinds.values()) - set(FLAWLESS))
    count = num_selected(len(kinds), ws.config.subset.share)
    trainings = Trainings(ws, arguments.trainings)
    chosen = {name: order[:count] for name, order in orders(ws, list(variants), list(kinds)).items()}
    wanted = {**groups(kinds, count, flaws), **chosen}
    for name in arguments.only or wanted:
        ids = wanted[name]
        started = time.perf_counter()
        drops = trainings.drops(ids)
        print(f"{name:28} {len(ids):4} clips: {composition([kinds[each] for each in ids], flaws)}", end="  ")
        single = ", ".join(f"{drop:.2f}" for drop in drops)
        print(f"drop {np.mean(drops):6.2f} %  single {single}  {time.perf_counter() - started:.0f} s" if drops else "", flush=True)


def composition(kinds: Sequence[str], flaws: Sequence[str]) -> str:
    """How many clips of each kind."""
    counts = Counter("spoiled" if kind in flaws else kind for kind in kinds)
    return ", ".join(f"{kind} {counts[kind]:3}" for kind in ("good", "spoiled", "akin", "rest"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="spoiled", choices=["plain", "confound", "spoiled"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=320)
    parser.add_argument("--trainings", type=int, default=2, help="of each set; 0: only the kinds among it")
    parser.add_argument("--only", nargs="+", help="these sets alone, by the name that is printed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument(
        "--variants", nargs="+", default=["motive", "no_mask", "motive_plus"], help="names, or name={draws: 4, rule: mean_influence}"
    )
    parser.add_argument(
        "--folder", default="benchmarks/out/pool_truth", help="where the projects are kept (default: benchmarks/out/pool_truth)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
