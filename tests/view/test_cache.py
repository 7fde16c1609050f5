"""The viewer's folder stays bounded, and nothing that somebody else put there, or that lies elsewhere, is touched."""

import os
from pathlib import Path

from motive_pipeline.view import cache
from motive_pipeline.view.cache import prune

NOW, OLD, OLDER = "aaaaaaaa", "bbbbbbbb", "cccccccc"


def made(folder: Path, name: str, age_s: float) -> Path:
    """A file of that age."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(name)
    os.utime(file, (1e9 - age_s, 1e9 - age_s))
    return file


def test_what_is_old_goes_and_the_newest_stays(tmp_path):
    folder = tmp_path / "view"
    explained = [made(folder, f"explain/version{age}/page.html", age).parent for age in range(5)]
    for age, version in enumerate(explained):
        os.utime(version, (1e9 - age, 1e9 - age))
    layouts = [made(folder, f"maps/gradients-{age}-1.npz", age) for age in range(9)]
    answers = [made(folder, f"asked/{age:016x}-motive.html", age) for age in range(cache.KEPT_ANSWERS + 2)]
    mine = [made(folder, name, 1e6) for name in ("notes.txt", "tiles/ab/picture of mine.webp", "videos/ab/film.mp4", "asked/mine.txt")]
    outside = made(tmp_path, "clips/0123456789abcdef.mp4", 1e6)
    prune(folder, mark=NOW)
    assert [path.exists() for path in explained] == [True] * 3 + [False] * 2
    assert [path.exists() for path in layouts] == [True] * 6 + [False] * 3
    assert [path.exists() for path in answers] == [True] * cache.KEPT_ANSWERS + [False] * 2
    assert all(path.exists() for path in (*mine, outside))
    assert prune(folder, mark=NOW) == 0


def test_pictures_of_the_present_settings_and_of_those_before_stay(tmp_path):
    kept = [made(tmp_path, f"tiles/01/0123456789abcdef-{mark}-loop.webp", age) for mark, age in ((NOW, 9e5), (OLD, 10))]
    gone = [made(tmp_path, f"tiles/01/0123456789abcdef-{OLDER}-loop.webp", 20)]
    for masks, age in (("11111111", 1), ("22222222", 2), ("33333333", 3)):
        (kept if age < 3 else gone).append(made(tmp_path, f"videos/01/0123456789abcdef-{NOW}-mask-{masks}.mp4", age))
    assert prune(tmp_path, mark=NOW) == len(gone)
    assert [path.exists() for path in (*kept, *gone)] == [True] * len(kept) + [False] * len(gone)


def test_videos_are_kept_by_number(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "KEPT_VIDEOS", 3)
    videos = [made(tmp_path, f"videos/01/{age:016x}-{NOW}-scored.mp4", age) for age in range(5)]
    prune(tmp_path, mark=NOW)
    assert [path.exists() for path in videos] == [True] * 3 + [False] * 2


def test_an_empty_folder_is_no_trouble(tmp_path):
    assert prune(tmp_path / "nowhere", mark=NOW) == 0
