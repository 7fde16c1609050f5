"""CSV and TSV rows: quotation marks that are never closed, delimiters, and what a row that cannot be read costs."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motive_pipeline.errors import MotiveError
from motive_pipeline.sources.csv_rows import csv_rows
from motive_pipeline.sources.table_row import BadRow, TableRow

CAPTIONS = [f"a square number {number} slides by" for number in range(20)]


def read(tmp_path, text: str, name: str = "t.csv") -> list[TableRow | BadRow]:
    file = tmp_path / name
    file.write_bytes(text.encode())
    return list(csv_rows(file))


def pairs(rows) -> list[tuple[str, str]]:
    return [(row.values["video"], row.values["caption"]) for row in rows if isinstance(row, TableRow)]


def bad(rows) -> list[str]:
    return [row.where for row in rows if isinstance(row, BadRow)]


def test_an_unclosed_quotation_mark_in_a_csv_costs_its_own_row(tmp_path):
    captions = [*CAPTIONS]
    captions[3] = '"Look at that said the man'
    rows = read(tmp_path, "video,caption\n" + "".join(f"c{number}.mp4,{caption}\n" for number, caption in enumerate(captions)))
    assert pairs(rows) == [(f"c{number}.mp4", caption) for number, caption in enumerate(captions) if number != 3]
    assert bad(rows) == ["line 5"]
    assert [row.where for row in rows] == [f"line {number + 2}" for number in range(20)]


def test_two_unclosed_quotation_marks_do_not_pair_up_over_the_rows_between(tmp_path):
    captions = [*CAPTIONS]
    captions[3], captions[12] = '"Look', 'and "then'
    rows = read(tmp_path, "video,caption\n" + "".join(f"c{number}.mp4,{caption}\n" for number, caption in enumerate(captions)))
    assert bad(rows) == ["line 5"]
    assert len(pairs(rows)) == 19


def test_with_the_caption_in_front_the_rows_behind_it_are_kept_too(tmp_path):
    rows = read(tmp_path, 'caption,video\n"open,a.mp4\nb,b.mp4\nc,c.mp4\n')
    assert (bad(rows), pairs(rows)) == (["line 2"], [("b.mp4", "b"), ("c.mp4", "c")])


def test_a_tsv_without_quoting_is_read_as_it_was_published(tmp_path):
    captions = [*CAPTIONS]
    captions[3], captions[12], captions[15] = '"Look at that', '"And then" a square', 'it is 5" wide'
    rows = read(tmp_path, "video\tcaption\n" + "".join(f"c{number}.mp4\t{caption}\n" for number, caption in enumerate(captions)), "t.tsv")
    assert pairs(rows) == [(f"c{number}.mp4", caption) for number, caption in enumerate(captions)]


def test_a_tsv_with_quoting_is_read_with_it(tmp_path):
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t")
    captions = ["plain", 'said "so"', "tab\there", "two\nlines, one\tmp4"]
    writer.writerows([["video", "caption"], *([f"{number}.mp4", caption] for number, caption in enumerate(captions))])
    assert pairs(read(tmp_path, text.getvalue(), "t.tsv")) == [(f"{number}.mp4", caption) for number, caption in enumerate(captions)]


def test_captions_with_line_breaks_and_commas_are_no_rows(tmp_path):
    text = io.StringIO()
    captions = ["A dog runs,\nthen it, sits\nat last", "one\n\ntwo", 'a "quoted" word,\nand more, of it']
    csv.writer(text).writerows([["video", "caption"], *([f"{number}.mp4", caption] for number, caption in enumerate(captions))])
    assert pairs(read(tmp_path, text.getvalue())) == [(f"{number}.mp4", caption) for number, caption in enumerate(captions)]


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_another_delimiter_is_seen_in_the_first_line(tmp_path, delimiter):
    rows = read(tmp_path, f"video{delimiter}caption\na.mp4{delimiter}left, then right\n")
    assert pairs(rows) == [("a.mp4", "left, then right")]


def test_a_space_behind_the_comma_does_not_end_the_quoting(tmp_path):
    assert pairs(read(tmp_path, 'video, caption\na.mp4, "left, then right"\n')) == [("a.mp4", "left, then right")]


def test_a_very_long_cell_is_read(tmp_path):
    assert len(pairs(read(tmp_path, f"video,caption\na.mp4,{'x' * 500_000}\n"))[0][1]) == 500_000


def test_an_empty_table_is_an_error(tmp_path):
    with pytest.raises(MotiveError, match="empty"):
        read(tmp_path, "\n\n")


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters='",\n;\t '), max_size=12)


@given(captions=st.lists(TEXT, min_size=1, max_size=8), wrong=st.sets(st.integers(0, 7)))
def test_whatever_the_captions_every_line_is_a_row_or_a_bad_one(tmp_path_factory, captions, wrong):
    """Rows written with quoting come back; one with an unclosed quotation mark costs no other row that begins with a file's name."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["video", "caption"])
    right = {}
    for number, caption in enumerate(captions):
        if number in wrong:
            text.write(f'c{number}.mp4,"open {number}\r\n')
        else:
            writer.writerow([f"c{number}.mp4", caption.strip()])
            right[f"c{number}.mp4"] = caption.strip()
    file = tmp_path_factory.mktemp("csv") / "t.csv"
    file.write_text(text.getvalue(), encoding="utf-8", newline="")
    found = dict(pairs(list(csv_rows(file))))
    assert {name: found.get(name) for name in right} == right
