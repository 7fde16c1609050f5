"""The golden record of the demo: what counts as a difference, and that the committed files can be read back."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import golden
from motive_pipeline.storage.workspace import Workspace
from tests.eval_fixtures import copied


@pytest.fixture
def recorded(evaluated: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A finished project whose scores are the record."""
    monkeypatch.setattr(golden, "RECORD", tmp_path / "golden")
    assert golden.main(["--config", str(evaluated.root), "--write"]) == 0
    return evaluated


def test_a_root_equals_its_own_record_to_the_last_bit(recorded: Workspace, capsys: pytest.CaptureFixture):
    assert golden.main(["--config", str(recorded.root)]) == 0
    assert capsys.readouterr().out.count("as recorded") == 3


def test_the_record_is_text_that_holds_every_digit(recorded: Workspace):
    for table in golden.TABLES:
        frame = golden.read_record(table)
        for column in table.scores:
            found = golden.open_root(recorded.root).sql(table.query)[column].to_numpy()
            assert frame[column].to_numpy().tobytes() == found.astype(np.float64).tobytes()


def test_a_root_whose_ranking_has_changed_is_told_apart(
    recorded: Workspace, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture
):
    other = copied(recorded, tmp_path, tiny_model)
    frame = other.scores.query("SELECT * FROM ranking WHERE variant = 'motive' ORDER BY rank").df()
    frame.loc[0, "mean_influence"] = np.nextafter(frame.loc[0, "mean_influence"], 1.0)
    frame.loc[[3, 4], "clip_id"] = frame.loc[[4, 3], "clip_id"].to_numpy()
    other.scores.publish({("ranking", "motive"): frame})
    assert golden.main(["--config", str(other.root)]) == 1
    said = capsys.readouterr().out
    assert "variant motive, rank 1: mean_influence was" in said
    assert "variant motive, rank 4: clip_id was" in said
    assert "variant motive, rank 5: clip_id was" in said
    assert "ranking: 18 rows, 3 differences" in said
    assert golden.main(["--config", str(other.root), "--tolerance", "1e-9"]) == 1, "a tolerance does not excuse another order"
    assert "2 differences" in capsys.readouterr().out


SCORES = golden.TABLES[2]


def scores(**changed) -> pd.DataFrame:
    rows = {
        "arm": ["full", "motive"],
        "metric": ["held_out_loss", "held_out_loss"],
        "backend": ["causal", "causal"],
        "seed": [0, 0],
        "num_videos": [8, 8],
        "value": [0.25, 0.5],
        "ci_low": [np.nan, 0.4],
        "ci_high": [np.nan, 0.6],
    }
    return pd.DataFrame(rows | changed)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"value": [0.25, 0.5000001]}, ["arm motive, metric held_out_loss, backend causal, seed 0: value was"]),
        ({"ci_low": [0.1, 0.4]}, ["arm full", "ci_low was"]),
        ({"num_videos": [8, 9]}, ["num_videos was"]),
        ({"seed": [0, 1]}, ["seed 0: not there any more", "seed 1: not in the record"]),
        ({"arm": ["motive", "motive"]}, ["more than one row"]),
    ],
)
def test_every_difference_is_named(changed, says):
    told = "\n".join(golden.differences(SCORES, scores(), scores(**changed)))
    for text in says:
        assert text in told


def test_a_tolerance_concerns_scores_alone():
    assert list(golden.differences(SCORES, scores(), scores(value=[0.25, 0.5000001]), tolerance=1e-6)) == []
    assert list(golden.differences(SCORES, scores(), scores(value=[0.25, 0.50001]), tolerance=1e-6)) != []
    assert list(golden.differences(SCORES, scores(), scores(ci_low=[0.0, 0.4]), tolerance=1.0)) != [], "a score that was missing"
    assert list(golden.differences(SCORES, scores(), scores(num_videos=[8, 9]), tolerance=10.0)) != []
    assert list(golden.differences(SCORES, scores(), scores())) == []


def test_a_root_that_is_not_finished_is_an_error_and_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert golden.main(["--config", str(tmp_path)]) == 2
    assert "is not a root" in capsys.readouterr().err
