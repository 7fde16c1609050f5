"""When pages say that a result is plumbing only."""

import pytest

from motive_pipeline.config import Clips, Model
from motive_pipeline.report.plumbing import NOTE, plumbing_notes


@pytest.mark.parametrize(
    ("source", "model", "notes"), [("folder", "tiny", [NOTE]), ("zip", "tiny", [NOTE]), ("demo", "tiny", []), ("folder", "someone/wan", [])]
)
def test_it_is_said_of_own_clips_on_the_embedded_model(make_config, tmp_path, source: str, model: str, notes: list[str]):
    config = make_config("clips: {source: demo}\nqueries: {source: demo}\n")
    assert plumbing_notes(config.model_copy(update={"clips": Clips(source=source, path=tmp_path), "model": Model(path=model)})) == notes
