"""What Dagster's event log gets of a publication: tables with pictures of bounded size, in which what others wrote is text; numbers; columns; clips that fail checks."""

import dagster as dg
import numpy as np
import pytest
import zarr

from assets import checks
from assets.clip_pictures import FACTS, MAX_LETTERS, first_clips
from assets.markdown import NO_LINK, escaped
from assets.metadata import metadata_of
from motive_pipeline.storage.facts import spread
from tests.eval_fixtures import copied, republish
from tests.preference_fixtures import edit_publication
from tests.report.test_report import HOSTILE

ATTACK = f"{HOSTILE} ![x](http://evil.example/p.png) <img src=x onerror=alert(1)> | www.evil.example https://evil.example a@evil.example\n# heading "
MAX_EVENT_BYTES = 100_000


@pytest.fixture(scope="module")
def hostile(evaluated, tmp_path_factory, tiny_model):
    """A project whose captions attack and are long; the file of one chosen clip has gone."""
    ws = copied(evaluated, tmp_path_factory.mktemp("metadata"), tiny_model)
    catalog = ws.published("clip_catalog").table("catalog")
    first = ws.published("voted_ranking/motive").table("ranking")["clip_id"].iloc[0]
    gone = catalog["path"].mask(catalog["clip_id"] == first, "/clips/gone|<b>.mp4")
    republish(ws, "clip_catalog", catalog=catalog.assign(caption=ATTACK * 20, path=gone))
    return ws


@pytest.mark.parametrize("asset", ["voted_ranking/motive", "curated_subset/motive"])
def test_the_first_clips_are_shown_with_picture_path_and_caption_within_bounds(hostile, asset):
    publication = hostile.published(asset)
    metadata = metadata_of(publication) | first_clips(hostile, publication)
    (name,) = [name for name in FACTS if name in metadata]
    lines = metadata[name].md_str.splitlines()
    listed = publication.facts[name]
    assert len(lines) == 2 + len(listed) > 3
    for row, line in zip(listed, lines[2:], strict=True):
        assert line.startswith(f"| {row['rank']} | ")
        assert row["clip_id"] in line
    assert "missing" in lines[2], "the reason in place of the picture"
    assert "gone\\|&lt;b&gt;.mp4" in lines[2]
    assert all("](data:image/webp;base64," in line for line in lines[3:])
    for line in lines[2:]:
        assert "<" not in line
        assert line.replace("\\|", "").count("|") == lines[0].count("|"), "no caption adds a column"
    assert "](http" not in metadata[name].md_str
    assert sum(len(str(value)) for value in metadata.values()) < MAX_EVENT_BYTES


def test_pictures_that_have_no_room_are_left_out_and_the_clips_stay(hostile, monkeypatch):
    monkeypatch.setattr("assets.clip_pictures.MAX_PICTURES_BYTES", 3000)
    table = first_clips(hostile, hostile.published("voted_ranking/motive"))["best_clips"].md_str
    assert 0 < table.count("data:image") < len(hostile.published("voted_ranking/motive").facts["best_clips"]) - 1
    assert len(table) < 3000 + 12 * 4 * MAX_LETTERS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("![x](y)", "\\!\\[x\\]\\(y\\)"),
        ("https://evil", f"https:{NO_LINK}//evil"),
        ("www.evil", f"www{NO_LINK}.evil"),
        ("a@b.c", f"a{NO_LINK}@b.c"),
        ("two\nlines\x1b[31m", "two lines\\\\x1b\\[31m"),
        (7, "7"),
    ],
)
def test_text_of_others_is_no_markup(text, shown):
    assert escaped(text) == shown


def test_figures_are_numbers_and_tables_have_their_columns(evaluated):
    catalog = metadata_of(evaluated.published("clip_catalog"))
    assert catalog["frames, smallest"] <= catalog["frames, median"] <= catalog["frames, largest"]
    columns = catalog["dagster/column_schema"].schema.columns
    assert [column.name for column in columns][:2] == ["clip_id", "path"]
    assert catalog["dagster/row_count"] == len(evaluated.published("clip_catalog").table("catalog"))
    scores = metadata_of(evaluated.published("eval_scores/base"))
    assert isinstance(scores["dynamic_degree[dis]"], float)
    assert scores["columns of per_video"].schema.columns[0].name == "training"
    for asset in ("clip_catalog", "latents", "projected_gradients/motive", "eval_scores/base"):
        texts = {name: value for name, value in metadata_of(evaluated.published(asset)).items() if isinstance(value, str)}
        assert {name: text for name, text in texts.items() if " to " in text} == {}, "a range is two numbers"


def test_the_spread_of_values():
    assert spread("x", np.array([3.0, np.nan, 1.0, 2.0])) == {"x, smallest": 1.0, "x, median": 2.0, "x, largest": 3.0}
    assert spread("x", np.array([np.nan])) == {}


def named(figures: dict) -> list[str]:
    """The rows of the table that names clips."""
    (table,) = [value.md_str for value in figures.values() if isinstance(value, dg.MarkdownMetadataValue)]
    return table.splitlines()[2:]


def test_checks_name_the_clips_that_fail_them(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    catalog = ws.published("clip_catalog").table("catalog")
    first, second, third = catalog["clip_id"].tolist()[:3]
    path_of = dict(zip(catalog["clip_id"], catalog["path"], strict=True))
    republish(ws, "clip_catalog", catalog=catalog.assign(caption=catalog["caption"].mask(catalog["clip_id"] == first, "  ")))
    masks = ws.published("motion_masks").table("index")
    republish(ws, "motion_masks", index=masks.assign(motion_peak_px=np.where(masks["clip_id"] == second, 0.0125, 0.0)))
    subset = ws.published("curated_subset/motive").table("subset")
    republish(ws, "curated_subset/motive", subset=subset.assign(clip_id=["0" * 16, *subset["clip_id"].tolist()[1:]]))

    def lengthen(folder) -> None:
        group = zarr.open_group(folder, mode="r+")
        row = np.flatnonzero([bytes(each).decode() == third for each in np.asarray(group["clip_id"])])[0]
        group["gradient"][int(row)] = np.asarray(group["gradient"][int(row)]) * 2

    edit_publication(ws, "projected_gradients/motive", lengthen)

    passed, figures = checks._captions(ws, ws.published("clip_catalog"))
    assert not passed
    assert [first in row and "mp4" in row for row in named(figures)] == [True]
    passed, figures = checks._moving(ws, ws.published("motion_masks"))
    assert not passed
    assert escaped(path_of[second]) in next(row for row in named(figures) if second in row)
    assert "0.0125" in next(row for row in named(figures) if second in row)
    passed, figures = checks._in_pool(ws, ws.published("curated_subset/motive"))
    assert not passed
    assert [("0" * 16 in row, "outside the pool" in row) for row in named(figures)] == [(True, True)]
    passed, figures = checks._unit(ws, ws.published("projected_gradients/motive"))
    assert not passed
    assert [(third in row, row.endswith("| 2 |")) for row in named(figures)] == [(True, True)]


def test_a_check_names_a_bounded_number_of_clips():
    figures = checks._named(["clip", "path"], [(f"{number:016x}", "a" * 10_000) for number in range(1000)])
    assert list(figures) == ["which (the first 25 of 1000)"]
    assert len(named(figures)) == 25
    assert len(str(figures)) < 20_000
