"""TensorBoard events: the curves that a training's record holds, live and after the fact."""

from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from motive_pipeline.training.events import events_folder, training_events
from motive_pipeline.training.finetune import load_records, publish_checkpoint
from motive_pipeline.training.loop import learning_rate
from tests.tiny_wan import save_tiny_wan
from tests.training_fixtures import make_workspace


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_wan(tmp_path_factory.mktemp("model") / "wan")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points by tag. A record of an events file is its length (uint64), a checksum (uint32), the event, a checksum (uint32)."""
    [file] = folder.iterdir()
    data, points = file.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            points.setdefault(value.tag, []).append((event.step, value.simple_value))
        data = data[16 + length :]
    return points


def test_they_hold_the_record_of_a_training(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny, seeds=2)
    records = load_records(publish_checkpoint(ws, "motive").path)
    for number in (0, 1):
        found = scalars(events_folder(ws, "motive", number))
        assert found["loss"] == [(step + 1, pytest.approx(loss)) for step, loss in enumerate(records[number]["losses"])]
        assert found["learning_rate"] == [(step + 1, pytest.approx(learning_rate(step, ws.config.finetune))) for step in range(3)]


def test_an_arm_that_shares_a_training_has_its_events_too(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    publish_checkpoint(ws, "motive")
    publish_checkpoint(ws, "random")  # the same clips
    assert scalars(events_folder(ws, "random", 0)) == scalars(events_folder(ws, "motive", 0))


def test_points_of_the_held_out_curve_are_written_once(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    with training_events(ws, "motive", 0) as events:
        events.add_held_out([0], [3.0], [])
        events.add_held_out([0], [3.0], [])
        events.add_held_out([0, 5], [3.0, 2.0], [1.5])
    found = scalars(events_folder(ws, "motive", 0))
    assert found == {"held_out_loss": [(0, 3.0), (5, 2.0)], "held_out_loss/mean_weights": [(5, 1.5)]}
