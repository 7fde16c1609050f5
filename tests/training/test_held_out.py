"""The held-out loss by step: what the causal check measures, recorded while a training runs, without a part in what the training is."""

import logging

import pytest

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.evaluation import causal
from motive_pipeline.evaluation.causal import causal_check
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.finetune import load_records, publish_checkpoint
from tests.eval_fixtures import copied, republish, with_settings


def finetune_settings(ws: Workspace, **settings) -> Workspace:
    return with_settings(ws, finetune=ws.config.finetune.model_copy(update=settings))


@pytest.fixture(scope="module")
def watched(evaluated, tmp_path_factory, tiny_model) -> Workspace:
    """The arm ``motive`` trained anew, for three steps, and watched every second step."""
    ws = copied(evaluated, tmp_path_factory.mktemp("watched"), tiny_model)
    ws = finetune_settings(ws, steps=3, eval_every=2, ema=0.5, seeds=2)
    publish_checkpoint(ws, "motive")
    return ws


def test_the_curve_starts_at_the_base_model_and_ends_at_the_checkpoints_causal_check(watched):
    table, _ = causal_check(watched, "motive")
    records = load_records(watched.published("finetuned_checkpoint/motive").path)
    held_out = HeldOutLoss(watched)
    for record in records:
        curve, checked = record["held_out"], table[table["training"] == record["training"]]
        assert curve["steps"] == [0, 2, 3]
        assert len(curve["loss"]) == len(curve["mean_weights_loss"]) == 3
        assert curve["loss"][0] == curve["mean_weights_loss"][0] == pytest.approx(checked["base_loss"].mean(), rel=1e-6)
        assert curve["mean_weights_loss"][-1] == pytest.approx(checked["loss"].mean(), rel=1e-6), "the checkpoint holds the mean"
        assert curve["mean_weights_loss"][-1] != curve["loss"][-1]
        assert curve["queries"] == sorted(set(checked["query_id"]))
        assert (curve["key"], curve["is_held_out"], curve["draws"]) == (held_out.key, True, 2)
    facts = watched.published("finetuned_checkpoint/motive").facts
    assert facts["held_out_loss_of_base"] == records[0]["held_out"]["loss"][0]
    assert facts["held_out_loss_at_end"] == pytest.approx(sum(record["held_out"]["mean_weights_loss"][-1] for record in records) / 2)


def test_without_a_running_mean_the_last_weights_are_those_of_the_checkpoint(evaluated, tmp_path, tiny_model, caplog):
    ws = finetune_settings(copied(evaluated, tmp_path, tiny_model), steps=2, eval_every=5)
    with caplog.at_level(logging.INFO):
        publish_checkpoint(ws, "motive")
    assert "held-out loss" in caplog.text, "on the progress line"
    (record,) = load_records(ws.published("finetuned_checkpoint/motive").path)
    table, _ = causal_check(ws, "motive")
    assert record["held_out"]["steps"] == [0, 2]
    assert record["held_out"]["mean_weights_loss"] is None
    assert record["held_out"]["loss"][-1] == pytest.approx(table["loss"].mean(), rel=1e-6)


def test_watching_makes_no_training_stale_and_repeats_none(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    before = ws.published("finetuned_checkpoint/motive")
    watching = finetune_settings(ws, eval_every=1)
    assert watching.config.fingerprint("finetuned_checkpoint") == before.fingerprint
    after = publish_checkpoint(watching, "motive")
    assert (after.counts.computed, after.counts.reused) == (0, 1)
    assert after.data_version == before.data_version
    assert "held_out" not in load_records(after.path)[0], "it was trained before"
    assert "held_out_loss_of_base" not in after.facts


def test_a_watched_training_is_the_one_that_was_not_watched(watched, tmp_path, tiny_model):
    plain = finetune_settings(copied(watched, tmp_path, tiny_model), steps=3, ema=0.5, seeds=2)
    for folder in (plain.root / "work" / "finetune").glob("*/*"):
        (folder / "training.json").unlink()  # so that it is trained again
    again = publish_checkpoint(plain, "motive")
    assert again.counts.computed == 2
    assert again.data_version == watched.published("finetuned_checkpoint/motive").data_version


def test_the_graph_has_the_queries_published_before_a_watched_training(evaluated):
    asset = "finetuned_checkpoint/full"
    queries = {"query_catalog", "query_latents", "query_masks"}
    assert not queries & set(evaluated.graph.asset(asset).reads)
    assert queries <= set(finetune_settings(evaluated, eval_every=1).graph.asset(asset).reads)


def rejected(ws: Workspace, asset: str, clip_ids: list[str]) -> None:
    """Publish the index of a query asset without these queries."""
    index = ws.published(asset).table("index")
    republish(ws, asset, index=index[~index["clip_id"].isin(clip_ids)])


def held_out_ids(ws: Workspace) -> list[str]:
    queries = ws.published("query_catalog").table("queries")
    return sorted(queries.loc[queries["role"] == "held_out", "query_id"])


def test_a_rejected_held_out_query_is_in_no_number_and_the_others_keep_theirs(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    first, second = held_out_ids(ws)
    whole = evaluated.published("eval_scores/motive").table("causal")
    rejected(ws, "query_masks", [first])
    table, _ = causal_check(ws, "motive")
    assert set(table["query_id"]) == {second}
    kept = whole[whole["query_id"] == second]
    assert table["loss"].tolist() == kept["loss"].tolist()
    assert set(table["metric"]) == {"held_out_loss_drop"}
    assert HeldOutLoss(ws).key != HeldOutLoss(evaluated).key


def test_held_out_queries_that_were_all_rejected_are_a_gate_and_not_replaced_by_the_queries(evaluated, tmp_path, tiny_model):
    """One has no latents, the other no mask: each stage has one left."""
    ws = copied(evaluated, tmp_path, tiny_model)
    first, second = held_out_ids(ws)
    rejected(ws, "query_masks", [first])
    rejected(ws, "query_latents", [second])
    with pytest.raises(GateFailed, match="none of 2 held-out queries has both latents and a motion mask"):
        causal_check(ws, "motive")


def test_a_query_that_can_no_longer_be_measured_stops_the_check_and_is_named(evaluated, tmp_path, tiny_model, monkeypatch):
    """Without it, the losses of the queries behind it would stand in its place."""

    class Lost(HeldOutLoss):
        def masked_and_plain(self, model, query):
            if query is self.queries[0]:
                raise RejectRow("missing_file", "it has gone", transient=True)
            return super().masked_and_plain(model, query)

    monkeypatch.setattr(causal, "HeldOutLoss", Lost)
    evaluate = evaluated.config.evaluate.model_copy(update={"held_out_draws": 1})
    ws = with_settings(copied(evaluated, tmp_path, tiny_model), evaluate=evaluate)
    name = Lost(ws).queries[0].location
    with pytest.raises(GateFailed, match=rf"cannot measure 1 of 2 queries: {name} \(it has gone\)"):
        causal_check(ws, "motive")
    with pytest.raises(GateFailed, match=rf"the query {name} can no longer be read"):
        Lost(ws).mean(causal.base_weights(ws).load(ws))
