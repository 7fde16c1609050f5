"""The gradient assets: which rows there are, what they hold, what is computed again and what is not."""

import shutil

import numpy as np
import pytest
import torch
import zarr

from motive_pipeline.attribution import gradient_set, stage
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.gradient_set import open_gradients, prefix, write_gradients
from motive_pipeline.attribution.stage import load_gradients, publish_gradients
from motive_pipeline.errors import GateFailed, NotPublished, RejectRow
from motive_pipeline.latents.stage import LatentSet, publish_latents
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.storage.rows import Row, RowStore
from tests.gradient_fixtures import add_clip, workspace
from tests.tiny_wan import save_tiny_wan


def test_every_clip_has_one_row_which_is_its_projected_gradient(folder):
    ws = workspace(folder)
    publication = publish_gradients(ws, variant="motive", role="clip")
    latents, masks = LatentSet(ws, "clip"), MaskSet(ws, "clip")
    found = load_gradients(ws, "motive", "clip", 1024)
    assert found.clip_ids == sorted(latents.clip_ids)
    assert publication.counts.computed == len(found) == 3
    gradient = build_clip_gradient(load_model(ws.config.model, threads=1), ws.config.gradient)
    for row, norm, clip_id in zip(found.rows(), found.norms_N, found.clip_ids, strict=True):
        feature = gradient(*latents.get(clip_id), masks.get(clip_id))
        assert np.allclose(row, feature.gradient_P, atol=1e-6)
        assert norm == feature.norm
    assert found.num_frames_N.tolist() == [9, 9, 9]


def test_the_group_is_plain_zarr_with_named_dimensions_and_its_provenance(folder):
    ws = workspace(folder)
    path = publish_gradients(ws, variant="motive", role="clip").path
    group = zarr.open(path, mode="r")
    assert group.metadata.zarr_format == 3
    assert group["gradient"].dtype == np.float32
    assert group["gradient"].metadata.dimension_names == ("clip", "proj")
    assert group["gradient"].chunks[1] == 512
    assert all(group[name].metadata.dimension_names == ("clip",) for name in ("grad_norm", "num_frames"))
    assert group["clip_id"].dtype == np.uint8
    assert group["clip_id"].shape == (3, 16)
    assert group["clip_id"].metadata.dimension_names == ("clip", "id_byte")
    assert sorted(group.array_keys()) == ["clip_id", "grad_norm", "gradient", "num_frames"]
    attributes = dict(group.attrs)
    assert {"model_hash", "timestep", "noise_seed", "proj_seed", "projection", "variant"} <= set(attributes)
    assert attributes["provenance"]["settings"]["gradient.store_dim"] == 1024
    assert "torch" in attributes["provenance"]["libraries"]


def test_a_smaller_prefix_is_read_at_unit_length_in_order(folder):
    ws = workspace(folder)
    publish_gradients(ws, variant="motive", role="clip")
    whole = load_gradients(ws, "motive", "clip", 1024).rows()
    cut = load_gradients(ws, "motive", "clip", 256)
    assert np.array_equal(cut.rows(), prefix(whole, 256))
    assert [(start, tile.shape) for start, tile in cut.tiles()] == [(0, (3, 256))]
    lengths = np.linalg.norm(cut.rows(), axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-6) | (lengths == 0))


def test_rows_are_written_and_read_a_tile_at_a_time_wherever_they_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(gradient_set, "TILE_ROWS", 3)
    monkeypatch.setattr(gradient_set, "TILE_COLUMNS", 4)
    random = np.random.default_rng(0)
    values_NP = random.standard_normal((8, 10)).astype(np.float32)
    store = RowStore(tmp_path / "store")
    refs = []
    for numbers in (range(5), range(5, 8)):  # two commits
        refs += store.append(
            [
                Row(key=str(n), arrays={"gradient": values_NP[n], "grad_norm": np.float64(n), "num_frames": np.int64(10 + n)})
                for n in numbers
            ]
        )
    order = random.permutation(8)
    clip_ids = [f"{n:016d}" for n in order]
    (tmp_path / "group").mkdir()
    write_gradients(
        tmp_path / "group",
        store=store,
        refs=[refs[n] for n in order],
        clip_ids=clip_ids,
        num_entries=10,
        attributes={"projection": "fastfood"},
    )
    assert np.array_equal(zarr.open_group(tmp_path / "group", mode="r")["gradient"][:], values_NP[order])
    found = open_gradients(tmp_path / "group", 6)
    assert (found.clip_ids, found.norms_N.tolist(), found.num_frames_N.tolist()) == (clip_ids, order.tolist(), (10 + order).tolist())
    assert np.array_equal(found.rows(), prefix(values_NP[order], 6))
    assert [(start, len(rows)) for start, rows in found.tiles()] == [(0, 3), (3, 3), (6, 2)]


def test_queries_have_gradients_and_held_out_clips_have_none(folder):
    ws = workspace(folder)
    publish_gradients(ws, variant="motive", role="query")
    queries = ws.published("query_catalog").table("queries")
    expected = sorted(queries.loc[queries["role"] == "query", "query_id"])
    assert load_gradients(ws, "motive", "query", 256).clip_ids == expected
    assert len(expected) == 2
    assert len(queries) == 3


def test_a_second_run_computes_nothing_and_loads_no_model(folder, monkeypatch):
    ws = workspace(folder)
    first = publish_gradients(ws, variant="motive", role="clip")
    monkeypatch.setattr(stage, "load_attributed_model", lambda *_, **__: pytest.fail("the model was loaded"))
    second = publish_gradients(workspace(folder), variant="motive", role="clip")
    assert second.counts.computed == 0
    assert second.counts.reused == 3
    assert second.data_version == first.data_version


def test_the_variant_without_a_mask_needs_no_masks_and_has_other_gradients(folder):
    ws = workspace(folder)
    publish_gradients(ws, variant="motive", role="clip")
    shutil.rmtree(ws.root / "published" / "motion_masks")
    publication = publish_gradients(ws, variant="no_mask", role="clip")
    assert publication.counts.computed == 3
    assert not np.allclose(load_gradients(ws, "no_mask", "clip", 256).rows(), load_gradients(ws, "motive", "clip", 256).rows(), atol=0.01)
    with pytest.raises(NotPublished):
        publish_gradients(ws, variant="motive", role="clip")


def test_changing_what_is_read_computes_nothing_and_going_back_costs_nothing(folder):
    publish_gradients(workspace(folder), variant="motive", role="clip")
    assert publish_gradients(workspace(folder, influence={"proj_dim": 128}), variant="motive", role="clip").counts.computed == 0
    assert publish_gradients(workspace(folder, gradient={"timestep": 700}), variant="motive", role="clip").counts.computed == 3
    assert publish_gradients(workspace(folder), variant="motive", role="clip").counts.computed == 0


def test_gradients_are_computed_from_latents_that_are_not_kept_and_are_the_same_rows(folder):
    publish_gradients(workspace(folder), variant="motive", role="clip")
    lean = workspace(folder, engine={"keep_latents": False})
    publish_latents(lean, role="clip")
    assert publish_gradients(lean, variant="motive", role="clip").counts.computed == 0
    later = {"gradient": {"timestep": 700}}
    from_lean = publish_gradients(workspace(folder, engine={"keep_latents": False}, **later), variant="motive", role="clip")
    assert from_lean.counts.computed == 3
    ws = workspace(folder, **later)
    publish_latents(ws, role="clip")
    assert publish_gradients(ws, variant="motive", role="clip").counts.computed == 0
    found, latents, masks = load_gradients(ws, "motive", "clip", 1024), LatentSet(ws, "clip"), MaskSet(ws, "clip")
    gradient = build_clip_gradient(load_model(ws.config.model, threads=1), ws.config.gradient)
    for row, clip_id in zip(found.rows(), found.clip_ids, strict=True):
        assert latents.has(clip_id, "latents")
        assert np.allclose(row, gradient(*latents.get(clip_id), masks.get(clip_id)).gradient_P, atol=1e-6)


def test_a_new_clip_is_the_only_one_computed_and_changes_no_other_row(folder):
    ws = workspace(folder)
    publish_gradients(ws, variant="motive", role="clip")
    before = load_gradients(ws, "motive", "clip", 1024)
    rows_before = dict(zip(before.clip_ids, before.rows(), strict=True))
    add_clip(folder, ws)
    assert publish_gradients(ws, variant="motive", role="clip").counts.computed == 1
    after = load_gradients(ws, "motive", "clip", 1024)
    rows_after = dict(zip(after.clip_ids, after.rows(), strict=True))
    assert len(rows_after) == 4
    assert all(np.array_equal(rows_after[clip_id], row) for clip_id, row in rows_before.items())


def test_other_latents_give_other_rows(folder):
    publish_gradients(workspace(folder), variant="no_mask", role="clip")
    shorter = workspace(folder, clips={"num_frames": 5})
    publish_latents(shorter, role="clip")
    assert publish_gradients(shorter, variant="no_mask", role="clip").counts.computed == 3
    assert load_gradients(shorter, "no_mask", "clip", 256).num_frames_N.tolist() == [5, 5, 5]


def test_other_weights_give_other_rows(folder):
    publish_gradients(workspace(folder), variant="no_mask", role="clip")
    shutil.rmtree(folder / "wan")
    save_tiny_wan(folder / "wan", seed=1)
    publication = publish_gradients(workspace(folder), variant="no_mask", role="clip")
    assert publication.counts.computed == 3


def test_the_published_hash_of_the_model_is_the_present_one_even_where_no_gradient_differs(folder):
    """Influence refuses gradients under different hashes, so one left behind would block it for good."""
    publish_gradients(workspace(folder), variant="no_mask", role="clip")
    config = folder / "wan" / "vae" / "config.json"
    config.write_text(config.read_text() + " ")
    ws = workspace(folder)
    publication = publish_gradients(ws, variant="no_mask", role="clip")
    assert zarr.open_group(publication.path, mode="r").attrs["model_hash"] == model_hash(ws)


def test_a_clip_without_motion_weight_is_a_zero_row(folder, monkeypatch):
    ws = workspace(folder)
    still = MaskSet(ws, "clip").clip_ids[0]
    get = MaskSet.get
    monkeypatch.setattr(MaskSet, "get", lambda self, clip_id: get(self, clip_id) * (clip_id != still))
    publication = publish_gradients(ws, variant="motive", role="clip")
    found = load_gradients(ws, "motive", "clip", 256)
    zero = [clip_id for clip_id, row in zip(found.clip_ids, found.rows(), strict=True) if not row.any()]
    assert zero == [still]
    assert publication.facts["zero gradients"] == 1
    assert not np.isnan(found.rows()).any()


def test_a_bad_row_is_listed_and_too_many_stop_the_stage(folder, monkeypatch):
    ws = workspace(folder, gradient={"max_reject_share": 0.5})
    bad = LatentSet(ws, "clip").clip_ids[0]
    get = stage.LatentSet.get

    def broken(self, clip_id):
        latents, prompt = get(self, clip_id)
        return (torch.full_like(latents, float("nan")) if clip_id == bad else latents), prompt

    monkeypatch.setattr(stage.LatentSet, "get", broken)
    publication = publish_gradients(ws, variant="motive", role="clip")
    rejects = publication.rejects()
    assert rejects[["clip_id", "reason"]].to_numpy().tolist() == [[bad, "non_finite_gradient"]]
    assert bad not in load_gradients(ws, "motive", "clip", 256).clip_ids
    with pytest.raises(GateFailed, match=r"gradient\.max_reject_share"):
        publish_gradients(workspace(folder, gradient={"max_reject_share": 0.1}), variant="motive", role="clip")


def test_a_clip_that_did_not_fit_is_tried_again_in_the_next_run(folder, monkeypatch):
    ws = workspace(folder, gradient={"max_reject_share": 0.9})
    first = LatentSet(ws, "clip").clip_ids[0]
    get = stage.LatentSet.get

    def full(self, clip_id):
        if clip_id == first:
            raise RejectRow("out_of_memory", "no room", transient=True)
        return get(self, clip_id)

    monkeypatch.setattr(stage.LatentSet, "get", full)
    assert publish_gradients(ws, variant="motive", role="clip").counts.rejected == 1
    monkeypatch.undo()
    again = publish_gradients(ws, variant="motive", role="clip")
    assert (again.counts.computed, again.counts.reused, again.counts.rejected) == (1, 2, 0)


def test_the_exact_gradient_is_stored_and_read_whole(folder):
    ws = workspace(folder, gradient={"projection": "exact", "parameters": "attn1.to_q"})
    publish_gradients(ws, variant="motive", role="clip")
    found = load_gradients(ws, "motive", "clip", 256)
    size = sum(p.numel() for n, p in load_model(ws.config.model, threads=1).transformer.named_parameters() if "attn1.to_q" in n)
    assert found.rows().shape == (3, size)


def test_several_draws_are_settings_of_the_row_and_stand_in_its_provenance(folder):
    publish_gradients(workspace(folder), variant="no_mask", role="clip")
    ws = workspace(folder, gradient={"timestep": [250, 750], "num_noises": 2})
    publication = publish_gradients(ws, variant="no_mask", role="clip")
    assert publication.counts.computed == 3
    attributes = dict(zarr.open(publication.path, mode="r").attrs)
    assert attributes["timestep"] == [250, 750]
    assert attributes["num_noises"] == 2


def test_a_clip_that_does_not_fit_in_memory_is_listed_and_the_run_goes_on(folder, monkeypatch):
    """The error comes out of the model itself, for one clip of three."""
    ws = workspace(folder, gradient={"max_reject_share": 0.5})
    large = LatentSet(ws, "clip").clip_ids[1]
    get = stage.LatentSet.get
    monkeypatch.setattr(
        stage.LatentSet, "get", lambda self, clip_id: (get(self, clip_id)[0] + 1000.0 * (clip_id == large), get(self, clip_id)[1])
    )
    transformer = load_model(ws.config.model, threads=1).transformer

    def refuse(_, arguments):
        if float(arguments["hidden_states"].max()) > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    handle = transformer.register_forward_pre_hook(lambda module, args, kwargs: refuse(module, kwargs), with_kwargs=True)
    try:
        publication = publish_gradients(ws, variant="motive", role="clip")
    finally:
        handle.remove()
    assert publication.counts.computed == 2
    rejects = publication.rejects()
    assert rejects[["clip_id", "reason"]].to_numpy().tolist() == [[large, "out_of_memory"]]
    assert "checkpointing" in rejects["detail"][0]
