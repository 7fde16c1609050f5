"""The catalogs: one row for each content, what could not be used with its reason, and the gates."""

import json
import shutil
from pathlib import Path

import pytest

from motive_pipeline.catalog.rejects import publish_rejected
from motive_pipeline.catalog.source_listing import TEXT_COLUMNS, catalog_table
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.errors import ConfigError, GateFailed, MotiveError
from motive_pipeline.files.hash_memory import HashMemory
from tests.clip_fixtures import counting_frames, cut, forbid_listing, moving_square, noise, project, write_project, write_sound, write_video


def rows(publication, name: str = "catalog") -> dict[str, dict]:
    """The table's rows by file name."""
    return {Path(str(row["path"])).name: row for row in publication.table(name).to_dict("records")}


def test_a_row_tells_what_the_container_says_and_where_the_caption_came_from(tmp_path):
    write_video(tmp_path / "clips" / "a.mp4", counting_frames(12))
    (tmp_path / "clips" / "a.txt").write_text("\ufeffa grey\npicture", encoding="utf-8")
    write_video(tmp_path / "clips" / "deep" / "b.mkv", counting_frames(9, width=32), rotation=0)
    found = rows(publish_clip_catalog(project(tmp_path)))
    a, b = found["a.mp4"], found["b.mkv"]
    assert (a["num_frames"], a["fps"], a["width"], a["height"], a["duration_s"]) == (12, 8.0, 64, 48, 1.5)
    assert (a["caption"], a["caption_source"], a["source"], a["sources"]) == ("a grey picture", "sidecar", "folder", '["a.mp4"]')
    assert a["path"] == str(tmp_path / "clips" / "a.mp4")
    assert (b["caption"], b["caption_source"], b["num_frames"], b["width"]) == ("", "none", 9, 32)


def test_equal_files_are_one_clip_with_several_sources_and_the_lowest_path_gives_the_caption(tmp_path):
    first = write_video(tmp_path / "clips" / "a.mp4", counting_frames(9))
    for name, caption in (("b", "second"), ("c", "third"), ("d", "second")):
        shutil.copy(first, first.with_stem(name))
        first.with_name(f"{name}.txt").write_text(caption)
    publication = publish_clip_catalog(project(tmp_path))
    (row,) = rows(publication).values()
    assert json.loads(row["sources"]) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert row["path"].endswith("a.mp4")
    assert row["caption"] == "second", "the first file has no caption, so the next one's is used"
    assert json.loads(row["other_captions"]) == ["third"]
    assert publication.facts["contents in several files"] == publication.facts["contents with differing captions"] == 1


def test_rows_are_in_the_order_of_clip_id_and_stand_in_the_score_tables(tmp_path):
    write_project(tmp_path)
    ws = project(tmp_path)
    frame = publish_clip_catalog(ws).table("catalog")
    assert frame["clip_id"].tolist() == sorted(frame["clip_id"])
    publish_query_catalog(ws)
    assert ws.scores.query("SELECT count(*), count(DISTINCT clip_id) FROM clips").fetchall() == [(3, 3)]
    assert ws.scores.query("SELECT role, category, count(*) FROM queries GROUP BY ALL ORDER BY ALL").fetchall() == [
        ("held_out", "", 1),
        ("query", "slide", 2),
    ]


def test_every_bad_file_is_a_reject_with_its_path_and_its_code_and_the_good_ones_are_used(tmp_path):
    clips = tmp_path / "clips"
    good = write_video(clips / "good.mp4", counting_frames(9))
    (clips / "empty.mp4").write_bytes(b"")
    (clips / "page.mp4").write_text("<html>404</html>")
    cut(write_video(clips / "half.mp4", noise()), 0.6)
    write_sound(clips / "sound.mp4")
    (clips / "gone.mp4").symlink_to("nowhere")
    (clips / "folder.mp4").mkdir()
    (clips / "latin.txt").write_bytes(b"caf\xe9")
    shutil.copy(good, clips / "latin.mp4")
    publication = publish_clip_catalog(project(tmp_path, clips={"max_reject_share": 1.0}))
    rejects = {Path(str(row["path"])).name: row for row in publication.rejects().to_dict("records")}
    assert {name: row["reason"] for name, row in rejects.items()} == {
        "empty.mp4": "empty_file",
        "page.mp4": "not_a_video",
        "half.mp4": "no_moov",
        "sound.mp4": "no_video_stream",
        "gone.mp4": "broken_symlink",
        "folder.mp4": "is_a_directory",
        "latin.mp4": "bad_caption",
    }
    assert {row["stage"] for row in rejects.values()} == {"clip_catalog"}
    assert all(row["detail"] for row in rejects.values())
    assert len(rejects["page.mp4"]["clip_id"]) == 16
    assert (publication.counts.rejected, list(rows(publication))) == (7, ["good.mp4"])


def test_both_files_of_a_bad_content_are_rejected(tmp_path):
    write_video(tmp_path / "clips" / "good.mp4", counting_frames(9))
    for name in ("e1.mp4", "e2.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"")
    publication = publish_clip_catalog(project(tmp_path, clips={"max_reject_share": 0.7}))
    assert [Path(path).name for path in publication.rejects()["path"]] == ["e1.mp4", "e2.mp4"]


def test_too_many_rejects_stop_the_stage_with_the_setting_and_the_reasons(tmp_path):
    write_video(tmp_path / "clips" / "good.mp4", counting_frames(9))
    (tmp_path / "clips" / "bad.mp4").write_bytes(b"")
    ws = project(tmp_path, clips={"max_reject_share": 0.4})
    with pytest.raises(GateFailed, match=r"1 of 2 clips rejected \(empty_file: 1\).*clips\.max_reject_share"):
        publish_clip_catalog(ws)
    assert not ws.has_published("clip_catalog")


def test_a_second_run_probes_nothing_and_a_new_file_only_itself(tmp_path):
    write_project(tmp_path)
    first = publish_clip_catalog(project(tmp_path))
    again = publish_clip_catalog(project(tmp_path))
    assert (first.counts.computed, again.counts.computed, again.counts.reused) == (3, 0, 3)
    assert again.data_version == first.data_version
    write_video(tmp_path / "clips" / "new.mp4", moving_square(seed=50))
    added = publish_clip_catalog(project(tmp_path))
    assert (added.counts.computed, added.counts.reused) == (1, 3)
    assert added.data_version != first.data_version


def test_a_renamed_file_is_the_same_clip_and_is_not_probed_again(tmp_path):
    write_project(tmp_path)
    before = publish_clip_catalog(project(tmp_path))
    (tmp_path / "clips" / "clip_0.mp4").rename(tmp_path / "clips" / "renamed.mp4")
    after = publish_clip_catalog(project(tmp_path))
    assert after.counts.computed == 0
    assert set(after.table("catalog")["clip_id"]) == set(before.table("catalog")["clip_id"])
    assert rows(after)["renamed.mp4"]["clip_id"] == rows(before)["clip_0.mp4"]["clip_id"]


def test_a_missing_folder_names_the_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"clips\.path"):
        publish_clip_catalog(project(tmp_path))
    with pytest.raises(ConfigError, match=r"queries\.path"):
        publish_query_catalog(project(tmp_path))


def test_a_held_out_clip_that_is_a_query_is_an_error_that_names_both_files(tmp_path):
    write_project(tmp_path)
    shutil.copy(tmp_path / "queries" / "slide" / "query_0.mp4", tmp_path / "held_out" / "same.mp4")
    with pytest.raises(MotiveError, match=r"query_0\.mp4 and .*same\.mp4"):
        publish_query_catalog(project(tmp_path))


def test_queries_without_captions_are_told_early_and_named_by_number(tmp_path, caplog):
    write_project(tmp_path)
    (tmp_path / "held_out" / "held.txt").write_text("a square")
    publish_query_catalog(project(tmp_path))
    assert "2 of 3 queries have no caption" in caplog.text
    assert "generate.prompts" in caplog.text


def test_queries_that_are_all_bad_stop_the_stage_and_one_good_one_is_enough(tmp_path):
    write_project(tmp_path)
    for file in (tmp_path / "queries" / "slide").iterdir():
        file.write_bytes(b"")
    with pytest.raises(GateFailed, match=r"none of 2 query file\(s\) can be used.*query_0\.mp4: empty_file"):
        publish_query_catalog(project(tmp_path))
    write_video(tmp_path / "queries" / "good.mp4", moving_square(seed=30))
    publication = publish_query_catalog(project(tmp_path, queries={"max_reject_share": 0.6}))
    assert publication.facts["queries"] == 1
    assert len(publication.rejects()) == 2


def test_a_sub_folder_of_queries_that_cannot_be_listed_stops_the_stage_and_is_named(tmp_path, monkeypatch):
    write_project(tmp_path)
    write_video(tmp_path / "queries" / "closed" / "q.mp4", moving_square(seed=30))
    forbid_listing(tmp_path / "queries" / "closed", monkeypatch)
    with pytest.raises(GateFailed, match=r"(?s)unreadable.*queries/closed.*cannot be listed"):
        publish_query_catalog(project(tmp_path))
    ws = project(tmp_path, queries={"max_reject_share": 0.5})
    rejects = publish_query_catalog(ws).rejects()
    assert [(row.path, row.reason) for row in rejects.itertuples()] == [(str(tmp_path / "queries" / "closed"), "unreadable")]


def test_a_sheet_of_middle_frames_is_the_preview(tmp_path):
    write_project(tmp_path)
    publication = publish_clip_catalog(project(tmp_path))
    assert publication.preview is not None
    assert publication.preview.read_bytes().startswith(b"\x89PNG")


def test_only_what_was_published_is_gathered_and_names_cannot_inject_markup(tmp_path):
    write_project(tmp_path)
    (tmp_path / "clips" / "<script>alert(1)<!--.mp4").write_bytes(b"")
    ws = project(tmp_path, clips={"max_reject_share": 0.5})
    assert publish_rejected(ws).facts["rejected"] == 0
    publish_clip_catalog(ws)
    publication = publish_rejected(ws)
    page = (publication.path / "rejected.html").read_text(encoding="utf-8")
    assert publication.table("rejected")["reason"].tolist() == ["empty_file"]
    assert publication.facts["by reason"] == [{"stage": "clip_catalog", "reason": "empty_file", "count": 1}]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert ws.scores.query("SELECT count(*) FROM rejects").fetchall() == [(1,)]


def test_a_hundred_thousand_unchanged_files_would_be_looked_at_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("motive_pipeline.files.hash_memory.SETTLED_AFTER_NS", 0)
    from motive_pipeline.catalog.scan import scan
    from motive_pipeline.sources.folder_source import FolderSource

    for number in range(500):
        (tmp_path / f"{number}.mp4").write_bytes(b"%d" % number)
    source = FolderSource(root=tmp_path, key="clips.path")
    scan(source, HashMemory(tmp_path / "state"))
    again = scan(source, HashMemory(tmp_path / "state"))
    assert (again.num_hashed, len(again.files)) == (0, 500)


def test_every_text_column_is_text_even_in_an_empty_table():
    frame = catalog_table([])
    assert all(frame[name].dtype == object for name in TEXT_COLUMNS)
