"""A stopped training goes on from its last saved state, with the bits of one that was never stopped."""

from pathlib import Path

import pytest
import torch

from motive_pipeline.config import Finetune
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training import one_training
from motive_pipeline.training.finetune import load_records, publish_checkpoint
from motive_pipeline.training.loop import finetune
from motive_pipeline.training.saved_state import SavedStates, State
from tests.tiny_wan import build_model, save_tiny_wan
from tests.training_fixtures import BY_SHAPE, CLIPS, SETTINGS, make_workspace, state

STOPPABLE = SETTINGS.model_copy(update={"checkpoint_every": 2})


class Stopped(Exception):
    """Ends a training as a killed machine would."""


def train(model, settings: Finetune, *, states: SavedStates | None = None, stop_after: int | None = None, **arguments) -> list[float]:
    def stop(step: int, _loss: float) -> None:
        if step + 1 == stop_after:
            raise Stopped

    save = None if states is None else states.save
    return finetune(model, BY_SHAPE, CLIPS.__getitem__, settings, training=1, on_step=stop, save=save, **arguments)


def through_a_stop(settings: Finetune, folder: Path, stop_after: int) -> tuple[dict[str, bytes], list[float]]:
    states = SavedStates(folder / "training")
    with pytest.raises(Stopped):
        train(build_model(), settings, states=states, stop_after=stop_after)
    resumed = build_model()
    losses = train(resumed, settings, states=states, start=SavedStates(folder / "training").newest())
    return state(resumed), losses


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"ema": 0.7, "schedule": "cosine", "micro_batch_size": 2, "timesteps": "stratified"},
        {"lora": {"rank": 2, "dropout": 0.5}},
    ],
    ids=["all weights", "running mean", "adapter with dropout"],
)
def test_it_ends_with_the_bits_and_losses_of_one_that_was_never_stopped(tmp_path: Path, further: dict) -> None:
    settings = Finetune.model_validate(STOPPABLE.model_dump() | further)
    whole = build_model()
    losses = train(whole, settings)
    for stop_after in (2, 3, 5):
        assert through_a_stop(settings, tmp_path / str(stop_after), stop_after) == (state(whole), losses)


def test_bfloat16_goes_on_from_its_float32_weights(tmp_path: Path) -> None:
    def build():
        model = build_model()
        model.transformer.bfloat16()
        model.compute_dtype = torch.bfloat16
        return model

    whole, resumed = build(), build()
    train(whole, STOPPABLE)
    states = SavedStates(tmp_path / "training")
    with pytest.raises(Stopped):
        train(build(), STOPPABLE, states=states, stop_after=5)
    train(resumed, STOPPABLE, start=states.newest())
    assert state(resumed) == state(whole)


def test_eight_bit_moments_go_on_too(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    settings = STOPPABLE.model_copy(update={"optimizer": "adamw8bit"})
    whole = build_model()
    losses = train(whole, settings)
    assert through_a_stop(settings, tmp_path, 5) == (state(whole), losses)
    exact = build_model()
    train(exact, STOPPABLE)
    assert state(exact) != state(whole), "the moments were not in 8 bits"


def test_only_the_newest_state_is_kept_and_none_after_the_last_step(tmp_path: Path) -> None:
    states = SavedStates(tmp_path / "training")
    train(build_model(), STOPPABLE, states=states)
    assert [path.name for path in tmp_path.iterdir()] == ["training-step-4"], "6 steps, a state every 2: 2 and 4"
    states.remove()
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_is_no_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = SavedStates(tmp_path / "training")
    states.save(State(step=2, losses=[1.0, 2.0], tensors={"weight.0": torch.ones(3)}, notes={"seconds": 1.0}))
    newest = states.newest()
    assert newest is not None
    assert (newest.step, newest.losses, newest.notes) == (2, [1.0, 2.0], {"seconds": 1.0})
    file = tmp_path / "training-step-2" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    assert states.newest() is None
    assert "state.safetensors" in caplog.text
    assert not list(tmp_path.iterdir()), "what is damaged is removed"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_wan(tmp_path_factory.mktemp("model") / "wan")


def stopped_run(folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, *, stop_after: int, **settings) -> Workspace:
    """A workspace whose training of the arm ``motive`` stopped after a step, as Ctrl-C does it."""
    ws = make_workspace(folder, tiny, **settings)
    learn = one_training.finetune

    def interrupted(*arguments, on_step, **others):
        def stop(step: int, loss: float) -> None:
            on_step(step, loss)
            if step + 1 == stop_after:
                raise KeyboardInterrupt

        return learn(*arguments, on_step=stop, **others)

    with monkeypatch.context() as patch:
        patch.setattr(one_training, "finetune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            publish_checkpoint(ws, "motive")
    return ws


def test_the_next_run_goes_on_and_publishes_the_same(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"steps": 5, "checkpoint_every": 2}
    calm = publish_checkpoint(make_workspace(tmp_path, tiny, root="calm", **settings), "motive")
    ws = stopped_run(tmp_path, tiny, monkeypatch, root="stopped", stop_after=3, **settings)
    caplog.set_level("INFO")
    publication = publish_checkpoint(ws, "motive")
    assert "goes on after step 2 of 5" in caplog.text
    assert publication.data_version == calm.data_version
    assert load_records(publication.path)[0]["losses"] == load_records(calm.path)[0]["losses"]
    assert not list((ws.root / "work" / "finetune").glob("*/*-step-*"))


def test_the_interval_between_states_repeats_no_training(tmp_path: Path, tiny: Path) -> None:
    publish_checkpoint(make_workspace(tmp_path, tiny, checkpoint_every=1), "motive")
    again = publish_checkpoint(make_workspace(tmp_path, tiny, checkpoint_every=None), "motive")
    assert (again.counts.computed, again.counts.reused) == (0, 1)


def test_another_setting_does_not_go_on_from_the_state(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_run(tmp_path, tiny, monkeypatch, stop_after=3, steps=5, checkpoint_every=2)
    other = publish_checkpoint(make_workspace(tmp_path, tiny, steps=5, checkpoint_every=2, learning_rate=2e-3), "motive")
    calm = publish_checkpoint(make_workspace(tmp_path, tiny, root="calm", steps=5, learning_rate=2e-3), "motive")
    assert other.data_version == calm.data_version
