"""The whole graph over two processes: every result is the same bits as from one."""

from __future__ import annotations

import re

import pytest

from tests.graph_project import SETTINGS, Project

SPREAD = (
    "latents",
    "query_latents",
    "motion_masks",
    "query_masks",
    "projected_gradients",
    "query_gradients",
    "finetuned_checkpoint",
    "generated_videos",
    "eval_scores",
)


@pytest.mark.slow
def test_two_devices_publish_the_same_bits_as_one(tmp_path_factory):
    settings = SETTINGS | {"engine": SETTINGS.get("engine", {}) | {"threads": 1}}
    one = Project(tmp_path_factory.mktemp("one"), settings)
    two = Project(tmp_path_factory.mktemp("two"), settings)
    two.set("engine.devices", ["cpu", "cpu"])
    one.run()
    spread = two.run()

    assets = [name for name in one.workspace.graph.assets if name.split("/")[0] in SPREAD]
    assert len(assets) > len(SPREAD)
    versions = {name: (one.workspace.published(name).data_version, two.workspace.published(name).data_version) for name in assets}
    assert {name: pair for name, pair in versions.items() if pair[0] != pair[1]} == {}

    trained = re.findall(r"cpu: finetune (\w+), training 0: ", spread.err)
    assert set(trained) == {arm for arm in one.config.arms if arm != "base"}
    counts = {name: two.workspace.published(name).counts for name in assets if name.startswith("finetuned_checkpoint/")}
    # an idle device begins with the next arm, whose asset finds the training finished
    assert any(count.reused == 1 for count in counts.values()), counts
    assert two.motive("plan").out.strip() == "nothing is stale"
