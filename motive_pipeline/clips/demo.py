"""The demo data: seeded little films of one moving textured shape, with their exact motion beside them.

Everything that is drawn follows from a `ClipSpec`: a few attributes that the caption names (shape, texture, colours, size, background)
and three that it does not (motion, speed, place). There is no noise, so a tiny model can learn the whole of it.

Axes: F frames, H W pixels, C channels (RGB), 2 = (dx, dy). Distances in pixels, y grows downwards, pixel (0, 0) has its centre there.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.clips.encode import write_mp4
from motive_pipeline.storage import atomic

VERSION = 2  # raise it whenever the same settings give other files
SIZE_PX = 64
NUM_FRAMES = 17
FPS = 16

MOTIONS = ("right", "left", "up", "down", "grow", "shrink", "bounce", "static", "pan", "sway")
# Out to the right and back again: the embedded model knows it and hardly ever draws it. The query motion by default.
RARE_MOTION = "sway"
SHAPES = ("disc", "square", "diamond")
TEXTURES = ("checked", "ringed", "spotted")
PATTERNS = ("wavy", "quilted", "rippled")
RADIUS_PX = {"small": 11.0, "large": 14.0}
SHAPE_COLOURS = {
    "yellow": (245, 220, 60),
    "white": (240, 240, 240),
    "orange": (250, 140, 40),
    "pink": (250, 130, 190),
    "lime": (150, 235, 60),
    "cyan": (90, 220, 245),
}
# The `confound` split ties them to the motions, in the order of MOTIONS; `static` and `pan`, in which no shape moves of itself, share one.
BACKGROUND_COLOURS = {
    "teal": (20, 105, 105),
    "navy": (30, 45, 120),
    "olive": (95, 95, 30),
    "maroon": (115, 30, 45),
    "grey": (95, 95, 95),
    "brown": (110, 70, 35),
    "purple": (90, 45, 120),
    "green": (30, 105, 50),
    "black": (38, 38, 40),
}
# How far the `confound` split's backgrounds are off these shades, which the embedded model was trained on: appearance that is new to it, and
# tied to motions, so that an unmasked gradient follows the background.
OFF_SHADE = 0.1
# What the demo draws from: a model of 2 M parameters learns round things sooner than corners and checks.
DRAWN_SHAPES = ("disc",)
DRAWN_TEXTURES = ("ringed",)
SPLITS = ("plain", "confound")
TIED_SHARE = 0.875  # of the pool's clips in the `confound` split carry their class's own background colour
SPEED_PX = (0.45, 1.1)  # per frame; half of them below the dynamic-degree threshold of 0.75
GROWTH_PX = (0.4, 0.8)  # of the radius per frame

_DIRECTIONS = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_THERE_AND_BACK = {"sway": 0, "bounce": 1}  # along which axis
_MARGIN_PX = 1.5
_REACH = {"disc": 1.0, "square": 0.88, "diamond": 1.25}  # of each shape along x and y, in radii; their areas are about the same
_BACKGROUND_SWING = 26.0  # grey levels either side of the background's colour
_DARK_TONE = 0.55  # of the shape's colour, where its texture is darkest


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """All that decides a clip's pixels.

    `speed_px` is the mean speed per frame of the shape (translation, bounce, sway), of its rim (grow, shrink) or of the whole scene (pan);
    0 for static. `centre_px` and `radius_px` are the shape's halfway through the clip, except that a bounce or a sway starts and ends at
    `centre_px`. `heading` is the direction of a pan and of nothing else. `is_off_shade`: the background's colour is mixed with `OFF_SHADE` of
    itself with its channels rotated; the caption does not tell.
    """

    motion: str
    shape: str
    texture: str
    colour: str
    size: str
    background_colour: str
    background_pattern: str
    speed_px: float
    centre_px: tuple[float, float]
    heading: str | None = None
    is_off_shade: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "motion": MOTIONS,
            "shape": SHAPES,
            "texture": TEXTURES,
            "colour": SHAPE_COLOURS,
            "size": RADIUS_PX,
            "background_colour": BACKGROUND_COLOURS,
            "background_pattern": PATTERNS,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, not {getattr(self, name)!r}")
        if (self.motion == "pan") != (self.heading in _DIRECTIONS):
            raise ValueError(f"heading belongs to a pan and to nothing else: {self.motion}, {self.heading!r}")

    @property
    def radius_px(self) -> float:
        return RADIUS_PX[self.size]

    @property
    def background_rgb(self) -> np.ndarray:
        """float32 (C,), 0-255."""
        known = np.array(BACKGROUND_COLOURS[self.background_colour], np.float32)
        return known + OFF_SHADE * (np.roll(known, 1) - known) if self.is_off_shade else known


@dataclass(frozen=True, kw_only=True)
class ClipTruth:
    """The exact motion of a clip.

    `displacement_FHW2` (dx, dy) leads from each pixel of a frame to where that point was in the previous frame; frame 0's leads to
    frame 1. `object_FHW` is true on the shape.
    """

    displacement_FHW2: np.ndarray
    object_FHW: np.ndarray


def caption(spec: ClipSpec) -> str:
    """What the clip looks like, and nothing of how it moves."""
    return f"a {spec.size} {spec.colour} {spec.texture} {spec.shape} on a {spec.background_colour} {spec.background_pattern} background"


def sample_spec(
    rng: np.random.Generator,
    *,
    motion: str | None = None,
    background_colour: str | None = None,
    is_off_shade: bool = False,
    shapes: tuple[str, ...] = DRAWN_SHAPES,
    textures: tuple[str, ...] = DRAWN_TEXTURES,
) -> ClipSpec:
    """A spec drawn uniformly; what is given is kept. The shape stays inside the picture during the whole clip."""
    motion = motion or _pick(rng, MOTIONS)
    shape, size = _pick(rng, shapes), _pick(rng, RADIUS_PX)
    heading = _pick(rng, _DIRECTIONS)
    low, high = GROWTH_PX if motion in ("grow", "shrink") else SPEED_PX
    speed_px = 0.0 if motion == "static" else float(rng.uniform(low, high))
    if motion != "pan":
        heading = None
    return ClipSpec(
        motion=motion,
        shape=shape,
        texture=_pick(rng, textures),
        colour=_pick(rng, SHAPE_COLOURS),
        size=size,
        background_colour=background_colour or _pick(rng, BACKGROUND_COLOURS),
        background_pattern=_pick(rng, PATTERNS),
        speed_px=speed_px,
        centre_px=_centre_px(rng, motion, heading, RADIUS_PX[size], _REACH[shape], speed_px),
        heading=heading,
        is_off_shade=is_off_shade,
    )


def render_clip(spec: ClipSpec) -> np.ndarray:
    """The clip's frames, uint8 (F, H, W, 3)."""
    pose = _pose(spec)
    x_HW, y_HW = _pixel_grid()
    coverage_FHW, u_FHW, v_FHW = _shape_coordinates(spec, pose)
    tone_FHW = 1 - (1 - _DARK_TONE) * 0.5 * (1 - _texture(spec.texture, u_FHW, v_FHW))
    shape_FHWC = tone_FHW[..., None] * np.array(SHAPE_COLOURS[spec.colour], np.float32)
    shift_x_F, shift_y_F = (pose.scene_F2[:, axis, None, None] for axis in (0, 1))
    pattern_FHW = _pattern(spec.background_pattern, x_HW - shift_x_F, y_HW - shift_y_F)
    background_FHWC = spec.background_rgb + _BACKGROUND_SWING * pattern_FHW[..., None]
    frames_FHWC = background_FHWC + coverage_FHW[..., None] * (shape_FHWC - background_FHWC)
    return np.clip(np.rint(frames_FHWC), 0, 255).astype(np.uint8)


def render_truth(spec: ClipSpec) -> ClipTruth:
    """The exact displacement and the shape's mask, in closed form."""
    pose = _pose(spec)
    coverage_FHW, u_FHW, v_FHW = _shape_coordinates(spec, pose)
    before = np.r_[1, 0 : NUM_FRAMES - 1]  # frame 0 is compared with frame 1
    centre_step_F2 = pose.centre_F2[before] - pose.centre_F2
    radius_step_F = (pose.radius_F[before] - pose.radius_F)[:, None, None]
    moved_x = centre_step_F2[:, 0, None, None] + u_FHW * radius_step_F
    moved_y = centre_step_F2[:, 1, None, None] + v_FHW * radius_step_F
    on_shape_FHW = coverage_FHW >= 0.5
    scene_step_F2 = (pose.scene_F2[before] - pose.scene_F2)[:, None, None, :]
    displacement_FHW2 = np.where(on_shape_FHW[..., None], np.stack([moved_x, moved_y], -1), scene_step_F2)
    return ClipTruth(displacement_FHW2=displacement_FHW2.astype(np.float32), object_FHW=on_shape_FHW)


@dataclass(frozen=True)
class _Pose:
    """Where everything is in each frame: the shape's centre and radius, and how far the scene has drifted since the first."""

    centre_F2: np.ndarray
    radius_F: np.ndarray
    scene_F2: np.ndarray


def _pose(spec: ClipSpec) -> _Pose:
    frame_F = np.arange(NUM_FRAMES, dtype=np.float32)
    from_middle_F = frame_F - (NUM_FRAMES - 1) / 2
    radius_F = np.full(NUM_FRAMES, spec.radius_px, np.float32)
    offset_F2 = np.zeros((NUM_FRAMES, 2), np.float32)
    scene_F2 = np.zeros((NUM_FRAMES, 2), np.float32)
    if spec.motion in ("grow", "shrink"):
        radius_F += spec.speed_px * from_middle_F * (1 if spec.motion == "grow" else -1)
    elif spec.motion in _THERE_AND_BACK:
        offset_F2[:, _THERE_AND_BACK[spec.motion]] = _depth_px(spec.speed_px) * (1 - np.cos(2 * np.pi * frame_F / (NUM_FRAMES - 1))) / 2
    elif spec.motion != "static":
        step_2 = spec.speed_px * np.array(_DIRECTIONS[spec.heading or spec.motion], np.float32)
        offset_F2 = from_middle_F[:, None] * step_2
        if spec.motion == "pan":
            scene_F2 = frame_F[:, None] * step_2
    return _Pose(np.array(spec.centre_px, np.float32) + offset_F2, radius_F, scene_F2)


def _depth_px(speed_px: float) -> float:
    """Of a bounce or a sway: there and back again within the clip, at this mean speed."""
    return speed_px * (NUM_FRAMES - 1) / 2


def _centre_px(
    rng: np.random.Generator, motion: str, heading: str | None, radius_px: float, reach: float, speed_px: float
) -> tuple[float, float]:
    """A place from which the shape never leaves the picture."""
    half_travel_px = speed_px * (NUM_FRAMES - 1) / 2
    if motion in ("grow", "shrink"):
        radius_px += half_travel_px
    before_px = after_px = np.full(2, reach * radius_px + _MARGIN_PX)
    if motion in _THERE_AND_BACK:
        after_px = after_px + _depth_px(speed_px) * np.eye(2)[_THERE_AND_BACK[motion]]
    elif motion not in ("grow", "shrink", "static"):
        before_px = after_px = before_px + half_travel_px * np.abs(_DIRECTIONS[heading or motion])
    x_px, y_px = rng.uniform(before_px, SIZE_PX - 1 - after_px)
    return float(x_px), float(y_px)


def _pixel_grid() -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(SIZE_PX, dtype=np.float32)
    return axis[None, :], axis[:, None]


def _shape_coordinates(spec: ClipSpec, pose: _Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much of each pixel the shape covers (0 to 1), and the pixel in the shape's own coordinates (radius = 1)."""
    x_HW, y_HW = _pixel_grid()
    radius_F = pose.radius_F[:, None, None]
    u_FHW = (x_HW - pose.centre_F2[:, 0, None, None]) / radius_F + np.zeros_like(y_HW)
    v_FHW = (y_HW - pose.centre_F2[:, 1, None, None]) / radius_F + np.zeros_like(x_HW)
    coverage_FHW = np.clip(0.5 - _edge(spec.shape, u_FHW, v_FHW) * radius_F, 0, 1)
    return coverage_FHW, u_FHW, v_FHW


def _edge(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the shape's edge in radii, negative inside."""
    if shape == "disc":
        return np.hypot(u, v) - _REACH[shape]
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - _REACH[shape]
    return (np.abs(u) + np.abs(v) - _REACH[shape]) / np.sqrt(2)


def _texture(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """In [-1, 1], fixed to the shape."""
    if texture == "checked":
        return np.sin(2 * np.pi * u / 1.2) * np.sin(2 * np.pi * v / 1.2)
    if texture == "ringed":
        return np.cos(2 * np.pi * np.hypot(u, v) / 0.9)
    return (np.cos(2 * np.pi * u / 0.9) + np.cos(2 * np.pi * v / 0.9)) / 2


def _pattern(pattern: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """In [-1, 1], fixed to the scene."""
    if pattern == "wavy":
        return np.sin(2 * np.pi * x / 32 + 1.5 * np.sin(2 * np.pi * y / 32))
    if pattern == "quilted":
        return np.sin(2 * np.pi * x / 28) * np.sin(2 * np.pi * y / 28)
    return np.cos(2 * np.pi * np.hypot(x - SIZE_PX / 2, y - SIZE_PX / 2) / 24)


def _pick(rng: np.random.Generator, values) -> str:
    return tuple(values)[rng.integers(len(values))]


def tied_colour(motion: str) -> str:
    """The background colour that belongs to a motion class in the `confound` split's pool."""
    own = [name for name in MOTIONS if name != "pan"]
    return tuple(BACKGROUND_COLOURS)[own.index("static" if motion == "pan" else motion)]


def lure_motion(query_motion: str) -> str:
    """The class whose background colour the `confound` split's queries carry."""
    return MOTIONS[(MOTIONS.index(query_motion) + 3) % 7]


def demo_specs(
    *, seed: int, split: str, num_clips: int, num_queries: int, num_held_out: int, query_motion: str
) -> Iterator[tuple[str, ClipSpec]]:
    """(role, spec) of every clip: role `clip` (the pool, classes balanced), then `query`, then `held_out`, each from its own stream."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if query_motion not in MOTIONS:
        raise ValueError(f"query_motion must be one of {', '.join(MOTIONS)}, not {query_motion!r}")
    is_confounded = split == "confound"
    rng = _stream(seed, "clip")
    for motion in rng.permutation(np.resize(rng.permutation(MOTIONS), num_clips)):
        colour = _pool_colour(rng, str(motion)) if is_confounded else None
        yield "clip", sample_spec(rng, motion=str(motion), background_colour=colour, is_off_shade=is_confounded)
    lure_colour = tied_colour(lure_motion(query_motion)) if is_confounded else None
    for role, number in (("query", num_queries), ("held_out", num_held_out)):
        rng = _stream(seed, role)
        for _ in range(number):
            yield role, sample_spec(rng, motion=query_motion, background_colour=lure_colour, is_off_shade=is_confounded)


def _pool_colour(rng: np.random.Generator, motion: str) -> str:
    own = tied_colour(motion)
    other = _pick(rng, [colour for colour in BACKGROUND_COLOURS if colour != own])
    return own if rng.uniform() < TIED_SHARE else other


def _stream(seed: int, role: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(("clip", "query", "held_out").index(role),)))


ROLE_FOLDERS = {"clip": "clips", "query": "queries", "held_out": "held_out"}


def write_demo(
    folder: str | Path,
    *,
    seed: int = 0,
    split: str = "plain",
    num_clips: int = 320,
    num_queries: int = 16,
    num_held_out: int = 16,
    query_motion: str = RARE_MOTION,
) -> Path:
    """Write the demo data set and return its folder.

    `clips/`, `queries/` and `held_out/` hold MP4 files with captions in `.txt` files of the same stem; their names say nothing of the
    motion. `truth.parquet` says what each one is, `settings.json` what made them. The folder appears whole or not at all, and one that
    is already there whole with the same settings is left alone.

    Raises FileExistsError when `folder` holds anything else: nothing is ever overwritten.
    """
    folder = Path(folder)
    settings = {
        "version": VERSION,
        "seed": seed,
        "split": split,
        "num_clips": num_clips,
        "num_queries": num_queries,
        "num_held_out": num_held_out,
        "query_motion": query_motion,
    }
    if _is_written(folder, settings):
        return folder
    atomic.make_folder(folder.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_all(unfinished, settings)
        unfinished.chmod(0o755)  # mkdtemp's folders are private
        if not _is_written(folder, settings):  # another process may have been faster
            atomic.sync_tree(unfinished)
            os.rename(unfinished, folder)
            atomic.sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _is_written(folder: Path, settings: dict) -> bool:
    """True if the folder holds exactly this data set, false if there is nothing; raises FileExistsError if there is anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    settings_path = folder / "settings.json"
    if not settings_path.exists():
        raise FileExistsError(f"{folder} exists and holds no demo data: choose another folder, or remove it")
    found = json.loads(settings_path.read_text())
    if found != settings:
        differences = [f"{key} is {found.get(key)!r}, asked for {value!r}" for key, value in settings.items() if found.get(key) != value]
        raise FileExistsError(f"{folder} holds other demo data ({'; '.join(differences)}): choose another folder, or remove it")
    missing = [name for name in pq.read_table(folder / "truth.parquet")["file"].to_pylist() if not (folder / name).exists()]
    if missing:
        raise FileExistsError(f"{folder} lacks {len(missing)} of its files ({missing[0]} first): remove it to have it written again")
    return True


def _write_all(folder: Path, settings: dict) -> None:
    for name in ROLE_FOLDERS.values():
        (folder / name).mkdir()
    jobs, numbers = [], dict.fromkeys(ROLE_FOLDERS, 0)
    for role, spec in demo_specs(**{key: value for key, value in settings.items() if key != "version"}):
        jobs.append((folder, role, f"{ROLE_FOLDERS[role]}/{role}_{numbers[role]:05d}.mp4", spec))
        numbers[role] += 1
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda job: _write_clip(*job), jobs))
    _require_disjoint(rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "truth.parquet")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")


def _write_clip(folder: Path, role: str, name: str, spec: ClipSpec) -> dict:
    path = folder / name
    write_mp4(path, render_clip(spec), FPS)
    path.with_suffix(".txt").write_text(caption(spec) + "\n")
    fields = asdict(spec)
    x_px, y_px = fields.pop("centre_px")
    return {
        "file": name,
        "clip_id": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "role": role,
        "caption": caption(spec),
        **fields,
        "centre_x_px": x_px,
        "centre_y_px": y_px,
        "colour_motion": next(motion for motion in MOTIONS if tied_colour(motion) == spec.background_colour),
    }


def _require_disjoint(rows: list[dict]) -> None:
    names: dict[str, str] = {}
    for row in rows:
        if other := names.setdefault(row["clip_id"], row["file"]) != row["file"] and names[row["clip_id"]]:
            raise RuntimeError(f"{row['file']} and {other} are the same film: the random streams overlap")
