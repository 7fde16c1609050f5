"""Influence maps as pictures: drawn over the looping clip, and as a curve over time.

Axes: F latent frames, H W pixels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup

from motive_pipeline.attribution.influence_map import best_window, over_time
from motive_pipeline.evaluation.clip_maps import ClipMap
from motive_pipeline.report.pictures import Animation, Film, at_frame, looped, masked
from motive_pipeline.report.tables import format_number

POSITIVE, NEGATIVE = (255, 150, 30), (40, 110, 255)
"""The colours, in RGB, of the largest influence of a map and of its negative."""

_OPACITY = 0.8
_BAR, _GAP, _HALF = 10, 2, 14
LEAST_FRAMES = 4
"""Latent frames below which a clip is not said to have a best window."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The window of half a clip's latent frames with the highest mean influence, in seconds from the clip's start."""

    start_s: float
    end_s: float
    mean: float
    mean_of_clip: float

    def sentence(self) -> str:
        """The window in words."""
        inside, whole = (format_number(value, 4, signed=True) for value in (self.mean, self.mean_of_clip))
        return f"Best half: {self.start_s:.2f} to {self.end_s:.2f} s, mean influence {inside} there and {whole} over the whole clip."


def map_loop(shown: Film, mask_FHW: Float[np.ndarray, "F h w"] | None, clip_map: ClipMap, temporal_stride: int) -> Animation:
    """Three loops in one picture, one below the other and in step: the clip with its motion mask, with its influence map, and with that of the
    untrained network."""
    rows = [masked(shown, mask_FHW, temporal_stride)]
    for map_FHW in (clip_map.map_FHW, clip_map.untrained_FHW):
        largest = float(np.abs(map_FHW).max())
        rows.append(
            [
                overlay_influence(picture_HWC, at_frame(map_FHW, number, temporal_stride), largest)
                for picture_HWC, number in zip(shown.pictures, shown.numbers, strict=True)
            ]
        )
    return looped([np.concatenate(column) for column in zip(*rows, strict=True)], shown.duration_ms)


def overlay_influence(
    picture_HWC: UInt8[np.ndarray, "H W 3"], influence_hw: Float[np.ndarray, "h w"], largest: float
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in grey with the influence over it: orange where it is positive, blue where it is negative, strongest at ``largest``."""
    height, width = picture_HWC.shape[:2]
    strength_HW = cv2.resize(influence_hw.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) / max(largest, 1e-30)
    grey_HWC = np.repeat(cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    colour_HWC = np.where(strength_HW[..., None] >= 0, np.array(POSITIVE, np.float32), np.array(NEGATIVE, np.float32))
    opacity_HW1 = _OPACITY * np.abs(strength_HW).clip(0, 1)[..., None]
    return np.rint((1 - opacity_HW1) * grey_HWC + opacity_HW1 * colour_HWC).astype(np.uint8)


def curve_svg(map_FHW: Float[np.ndarray, "F h w"]) -> Markup:
    """The mean influence of each latent frame as a bar above or below zero, scaled to the largest. It contains no text of others."""
    curve_F = over_time(map_FHW)
    largest = float(np.abs(curve_F).max()) or 1.0
    width = len(curve_F) * (_BAR + _GAP)
    bars = []
    for frame, value in enumerate(curve_F.tolist()):
        height = round(_HALF * abs(value) / largest, 2)
        top = _HALF - height if value > 0 else _HALF
        colour = "#{:02x}{:02x}{:02x}".format(*(POSITIVE if value > 0 else NEGATIVE))
        bars.append(f'<rect x="{frame * (_BAR + _GAP)}" y="{top:g}" width="{_BAR}" height="{height:g}" fill="{colour}"/>')
    words = ", ".join(format_number(value, 3, signed=True) for value in curve_F.tolist())
    return Markup(
        f'<svg class="curve" viewBox="0 0 {width} {2 * _HALF}" preserveAspectRatio="none" role="img" aria-label="influence by latent frame: {words}">'
        f'<line x1="0" y1="{_HALF}" x2="{width}" y2="{_HALF}" stroke="currentColor" stroke-width=".5"/>{"".join(bars)}</svg>'
    )


def window_of(clip_map: ClipMap, *, temporal_stride: int, fps: float) -> Window | None:
    """The best window of a clip; None for one of fewer than four latent frames."""
    curve_F = over_time(clip_map.map_FHW)
    if len(curve_F) < LEAST_FRAMES:
        return None
    first, behind = best_window(curve_F, -(-len(curve_F) // 2))
    return Window(
        start_s=_first_frame(first, temporal_stride) / fps,
        end_s=_first_frame(behind, temporal_stride) / fps,
        mean=float(curve_F[first:behind].mean()),
        mean_of_clip=float(curve_F.mean()),
    )


def map_lines(clip_map: ClipMap) -> Sequence[str]:
    """What stands below a map: how similar the untrained network's is."""
    agreement = clip_map.agreement
    return [] if np.isnan(agreement) else [f"untrained: r {format_number(agreement, 2, signed=True)}"]


def _first_frame(latent_frame: int, temporal_stride: int) -> int:
    """The first decoded frame of a latent frame: 0 is alone, then ``temporal_stride`` share one."""
    return 0 if latent_frame == 0 else (latent_frame - 1) * temporal_stride + 1
