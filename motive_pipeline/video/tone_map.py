"""HDR -> SDR: maps PQ or HLG pictures with BT.2020 colours to what a BT.709 screen shows.

1. Coded values to light: ST 2084 for PQ; BT.2100 for HLG, with its system gamma for a 1000 cd/m2 screen.
2. BT.2020 primaries to BT.709 primaries (BT.2087); negative values are clipped to 0.
3. Tone curve: the largest channel of each pixel goes through the Moebius curve of FFmpeg's ``tonemap`` filter (linear up to 0.3 of
   reference white, smooth from there to 1000 cd/m2); the other channels are scaled by the same factor.
4. Light to code values of a BT.1886 screen (gamma 2.4).
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16

PQ, HLG = 16, 18
"""AVCOL_TRC_SMPTE2084 and AVCOL_TRC_ARIB_STD_B67."""

REFERENCE_WHITE_NITS = 203.0
"""BT.2408: the light of a white sheet of paper in HDR. It becomes white in SDR."""
PEAK = 1000.0 / REFERENCE_WHITE_NITS
KNEE = 0.3

_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)  # BT.2087, annex 2
_SDR_STEPS = 2**14


def sdr(coded_HWC: UInt16[np.ndarray, "H W 3"], transfer: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture for an SDR screen. ``coded_HWC`` is full-range RGB; ``transfer`` is :data:`PQ` or :data:`HLG`."""
    light_HWC = _light_table(transfer)[coded_HWC]
    if transfer == HLG:
        light_HWC *= PEAK * np.power(light_HWC @ _BT2020_LUMA, 0.2)[..., None]
    light_HWC = np.maximum(cv2.transform(light_HWC, _BT2020_TO_BT709), 0.0)
    red_HW, green_HW, blue_HW = np.moveaxis(light_HWC, 2, 0)
    largest_HW = np.maximum(np.maximum(np.maximum(red_HW, green_HW), blue_HW), 1e-6)
    light_HWC *= (moebius(largest_HW) / largest_HW)[..., None]
    return _code_table()[(np.minimum(light_HWC, 1.0) * (_SDR_STEPS - 1) + 0.5).astype(np.uint16)]


def moebius(light: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """The tone curve, on light as a share of reference white: it maps :data:`PEAK` to 1 and leaves values below :data:`KNEE` unchanged."""
    a = -(KNEE**2) * (PEAK - 1) / (KNEE**2 - 2 * KNEE + PEAK)
    b = (KNEE**2 - 2 * KNEE * PEAK + PEAK) / (PEAK - 1)
    return np.where(light <= KNEE, light, (b**2 + 2 * b * KNEE + KNEE**2) / (b - a) * (light + a) / (light + b))


@cache
def _light_table(transfer: int) -> Float32[np.ndarray, " codes"]:
    """The light of each 16-bit code: as a share of reference white for PQ, of the largest value in the scene for HLG."""
    code = np.arange(2**16) / (2**16 - 1)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = code ** (1 / m2)
        light = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) / REFERENCE_WHITE_NITS
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    return light.astype(np.float32)


@cache
def _code_table() -> UInt8[np.ndarray, " steps"]:
    """The 8-bit code of each step of light between 0 and 1. The steps are finer than the codes, even where the picture is dark."""
    return np.rint(255 * (np.arange(_SDR_STEPS) / (_SDR_STEPS - 1)) ** (1 / 2.4)).astype(np.uint8)
