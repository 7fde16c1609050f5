"""Draws the clips of the demo: short seeded films of one moving textured shape, with their exact motion.

A `ClipSpec` decides every pixel. The caption names some of its attributes (shape, texture, colours, size, background) and not the others
(motion, speed, position). There is no noise, so a tiny model can learn all of it.

Axes: F frames, H W pixels, C channels (RGB), 2 = (dx, dy). Distances are in pixels; y grows downwards; (0, 0) is a pixel's centre.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

SIZE_PX = 64
NUM_FRAMES = 17
FPS = 16

MOTIONS = ("right", "left", "up", "down", "grow", "shrink", "bounce", "static", "pan", "sway")
# To the right and back: the embedded model knows this motion and hardly ever draws it. It is the default query motion.
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
# The `confound` split ties these colours to motions, in the order of MOTIONS. `static` and `pan`, where no shape moves by itself, share one.
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
# How far the backgrounds of the `confound` split differ from these shades. The embedded model was trained on the shades themselves, so the
# backgrounds are new to it, and they are tied to motions: an unmasked gradient follows the background.
OFF_SHADE = 0.1
# The demo draws only these: a model of 2 M parameters learns round shapes sooner than corners and checks.
DRAWN_SHAPES = ("disc",)
DRAWN_TEXTURES = ("ringed",)
FLAWS = ("flicker", "jumps", "hurried", "wrong_caption")
"""How the `spoiled` split spoils a clip: its brightness alternates from frame to frame; it stands still and jumps; it goes there and back
three times in the time of one; its caption describes another clip."""
_FLICKER = 0.3  # share of the brightness, up and down
_HELD_FRAMES = 4  # that a clip with jumps stands still
_HURRIED_ROUNDS = 3
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
    """Everything that decides the pixels of a clip.

    `speed_px` is the mean speed per frame of the shape (translation, bounce, sway), of its rim (grow, shrink) or of the whole scene (pan);
    0 for static. `centre_px` and `radius_px` hold in the middle of the clip, but a bounce or a sway starts and ends at `centre_px`.
    `heading` is the direction of a pan; other motions have none. With `is_off_shade`, the background's colour is mixed with a share
    `OFF_SHADE` of the same colour with its channels rotated; the caption does not say so. `flaw` is one of :data:`FLAWS`.
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
    flaw: str | None = None

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
        if self.flaw is not None and self.flaw not in FLAWS:
            raise ValueError(f"flaw must be one of {', '.join(FLAWS)}, not {self.flaw!r}")

    @property
    def radius_px(self) -> float:
        """The radius that ``size`` stands for."""
        return RADIUS_PX[self.size]

    @property
    def background_rgb(self) -> np.ndarray:
        """The colour of the background: float32 (C,), 0-255."""
        known = np.array(BACKGROUND_COLOURS[self.background_colour], np.float32)
        return known + OFF_SHADE * (np.roll(known, 1) - known) if self.is_off_shade else known


@dataclass(frozen=True, kw_only=True)
class ClipTruth:
    """The exact motion of a clip.

    `displacement_FHW2` (dx, dy) leads from each pixel of a frame to the position of that point in the previous frame; in frame 0, to its
    position in frame 1. `object_FHW` is true on the shape.
    """

    displacement_FHW2: np.ndarray
    object_FHW: np.ndarray


def caption(spec: ClipSpec) -> str:
    """The caption: it says what the clip looks like and not how it moves. That of a clip with the flaw `wrong_caption` is of another size, other
    colours and another pattern."""
    if spec.flaw == "wrong_caption":
        spec = dataclasses.replace(
            spec,
            flaw=None,
            size=_next(RADIUS_PX, spec.size),
            colour=_next(SHAPE_COLOURS, spec.colour),
            background_colour=_next(BACKGROUND_COLOURS, spec.background_colour),
            background_pattern=_next(PATTERNS, spec.background_pattern),
        )
    return f"a {spec.size} {spec.colour} {spec.texture} {spec.shape} on a {spec.background_colour} {spec.background_pattern} background"


def sample_spec(
    rng: np.random.Generator,
    *,
    motion: str | None = None,
    background_colour: str | None = None,
    is_off_shade: bool = False,
    flaw: str | None = None,
    shapes: tuple[str, ...] = DRAWN_SHAPES,
    textures: tuple[str, ...] = DRAWN_TEXTURES,
) -> ClipSpec:
    """Draw a spec uniformly; arguments that are given are kept. The shape stays inside the picture during the whole clip."""
    motion = motion or pick_one(rng, MOTIONS)
    shape, size = pick_one(rng, shapes), pick_one(rng, RADIUS_PX)
    heading = pick_one(rng, _DIRECTIONS)
    low, high = GROWTH_PX if motion in ("grow", "shrink") else SPEED_PX
    speed_px = 0.0 if motion == "static" else float(rng.uniform(low, high))
    if motion != "pan":
        heading = None
    return ClipSpec(
        motion=motion,
        shape=shape,
        texture=pick_one(rng, textures),
        colour=pick_one(rng, SHAPE_COLOURS),
        size=size,
        background_colour=background_colour or pick_one(rng, BACKGROUND_COLOURS),
        background_pattern=pick_one(rng, PATTERNS),
        speed_px=speed_px,
        centre_px=_centre_px(rng, motion, heading, RADIUS_PX[size], _REACH[shape], speed_px),
        heading=heading,
        is_off_shade=is_off_shade,
        flaw=flaw,
    )


def render_clip(spec: ClipSpec) -> np.ndarray:
    """The frames of the clip, uint8 (F, H, W, 3)."""
    pose = _pose(spec)
    x_HW, y_HW = _pixel_grid()
    coverage_FHW, u_FHW, v_FHW = _shape_coordinates(spec, pose)
    tone_FHW = 1 - (1 - _DARK_TONE) * 0.5 * (1 - _texture(spec.texture, u_FHW, v_FHW))
    shape_FHWC = tone_FHW[..., None] * np.array(SHAPE_COLOURS[spec.colour], np.float32)
    shift_x_F, shift_y_F = (pose.scene_F2[:, axis, None, None] for axis in (0, 1))
    pattern_FHW = _pattern(spec.background_pattern, x_HW - shift_x_F, y_HW - shift_y_F)
    background_FHWC = spec.background_rgb + _BACKGROUND_SWING * pattern_FHW[..., None]
    frames_FHWC = background_FHWC + coverage_FHW[..., None] * (shape_FHWC - background_FHWC)
    if spec.flaw == "flicker":
        frames_FHWC = frames_FHWC * (1 + _FLICKER * (-1.0) ** np.arange(NUM_FRAMES))[:, None, None, None]
    return np.clip(np.rint(frames_FHWC), 0, 255).astype(np.uint8)


def render_truth(spec: ClipSpec) -> ClipTruth:
    """The exact displacement and the mask of the shape, in closed form."""
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
    """For each frame: the centre and the radius of the shape, and the shift of the scene since the first frame."""

    centre_F2: np.ndarray
    radius_F: np.ndarray
    scene_F2: np.ndarray


def _pose(spec: ClipSpec) -> _Pose:
    frame_F = np.arange(NUM_FRAMES, dtype=np.float32)
    if spec.flaw == "jumps":
        frame_F = frame_F // _HELD_FRAMES * _HELD_FRAMES
    from_middle_F = frame_F - (NUM_FRAMES - 1) / 2
    radius_F = np.full(NUM_FRAMES, spec.radius_px, np.float32)
    offset_F2 = np.zeros((NUM_FRAMES, 2), np.float32)
    scene_F2 = np.zeros((NUM_FRAMES, 2), np.float32)
    rounds = _HURRIED_ROUNDS if spec.flaw == "hurried" else 1
    if spec.motion in ("grow", "shrink"):
        radius_F += spec.speed_px * from_middle_F * (1 if spec.motion == "grow" else -1)
    elif spec.motion in _THERE_AND_BACK:
        offset_F2[:, _THERE_AND_BACK[spec.motion]] = (
            _depth_px(spec.speed_px) * (1 - np.cos(2 * np.pi * rounds * frame_F / (NUM_FRAMES - 1))) / 2
        )
    elif spec.motion != "static":
        step_2 = spec.speed_px * np.array(_DIRECTIONS[spec.heading or spec.motion], np.float32)
        offset_F2 = from_middle_F[:, None] * step_2
        if spec.motion == "pan":
            scene_F2 = frame_F[:, None] * step_2
    return _Pose(np.array(spec.centre_px, np.float32) + offset_F2, radius_F, scene_F2)


def _depth_px(speed_px: float) -> float:
    """How far a bounce or a sway goes: there and back within the clip, at this mean speed."""
    return speed_px * (NUM_FRAMES - 1) / 2


def _centre_px(
    rng: np.random.Generator, motion: str, heading: str | None, radius_px: float, reach: float, speed_px: float
) -> tuple[float, float]:
    """A position from which the shape never leaves the picture."""
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
    """The share of each pixel that the shape covers, and the pixel in the coordinates of the shape (radius = 1)."""
    x_HW, y_HW = _pixel_grid()
    radius_F = pose.radius_F[:, None, None]
    u_FHW = (x_HW - pose.centre_F2[:, 0, None, None]) / radius_F + np.zeros_like(y_HW)
    v_FHW = (y_HW - pose.centre_F2[:, 1, None, None]) / radius_F + np.zeros_like(x_HW)
    coverage_FHW = np.clip(0.5 - _edge(spec.shape, u_FHW, v_FHW) * radius_F, 0, 1)
    return coverage_FHW, u_FHW, v_FHW


def _edge(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the edge of the shape in radii, negative inside."""
    if shape == "disc":
        return np.hypot(u, v) - _REACH[shape]
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - _REACH[shape]
    return (np.abs(u) + np.abs(v) - _REACH[shape]) / np.sqrt(2)


def _texture(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The texture at shape coordinates (u, v), in [-1, 1]; it moves with the shape."""
    if texture == "checked":
        return np.sin(2 * np.pi * u / 1.2) * np.sin(2 * np.pi * v / 1.2)
    if texture == "ringed":
        return np.cos(2 * np.pi * np.hypot(u, v) / 0.9)
    return (np.cos(2 * np.pi * u / 0.9) + np.cos(2 * np.pi * v / 0.9)) / 2


def _pattern(pattern: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The background pattern at (x, y), in [-1, 1]; it moves with the scene."""
    if pattern == "wavy":
        return np.sin(2 * np.pi * x / 32 + 1.5 * np.sin(2 * np.pi * y / 32))
    if pattern == "quilted":
        return np.sin(2 * np.pi * x / 28) * np.sin(2 * np.pi * y / 28)
    return np.cos(2 * np.pi * np.hypot(x - SIZE_PX / 2, y - SIZE_PX / 2) / 24)


def pick_one(rng: np.random.Generator, values: Collection[str]) -> str:
    """One of ``values``, drawn uniformly."""
    return tuple(values)[rng.integers(len(values))]


def _next(values: Collection[str], value: str) -> str:
    """The value that follows in ``values``, the first after the last."""
    names = tuple(values)
    return names[(names.index(value) + 1) % len(names)]
