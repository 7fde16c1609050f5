"""HDR clips: what each policy makes of them, and what tone mapping does to light and colours."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph

from motive_pipeline.catalog.stage import publish_clip_catalog
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.video.decode import read_clip
from motive_pipeline.video.tone_map import HLG, KNEE, PEAK, PQ, _light_table, moebius, sdr
from tests.clip_fixtures import RULE, moving_square, project, write_video

MAPPED = replace(RULE, tone_map=True)
BT2020 = 9  # AVCOL_PRI_BT2020, AVCOL_SPC_BT2020_NCL


def pq_code(nits: float) -> int:
    """ST 2084's inverse EOTF, as a 16-bit code."""
    power = (nits / 10_000) ** (2610 / 16384)
    return round(65535 * ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32))


def grey(code: int) -> np.ndarray:
    return np.full((2, 2, 3), code, dtype=np.uint16)


def write_hdr(path: Path, codes: list[int], transfer: int = PQ) -> Path:
    """Nine equal frames of 64 x 48 with a column of grey for each code: 10-bit HEVC, BT.2020."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_HWC = np.repeat(np.array(codes, dtype=np.uint16), 64 // len(codes))[None, :, None].repeat(48, axis=0).repeat(3, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=8, options={"crf": "5", "x265-params": "log-level=none:pools=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries = context.colorspace = BT2020
        context.color_trc, context.color_range = transfer, 1
        for _ in range(9):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb48le")
            container.mux(stream.encode(frame.reformat(format="yuv420p10le", dst_colorspace=BT2020, dst_color_range=1)))
        container.mux(stream.encode())
    return path


def ffmpegs_curve(light: np.ndarray) -> np.ndarray:
    """The same light through FFmpeg's own ``tonemap`` filter."""
    graph = Graph()
    width = len(light)
    source = graph.add_buffer(width=width, height=1, format="gbrpf32le", time_base=Fraction(1, 8))
    curve = graph.add("tonemap", f"tonemap=mobius:param={KNEE}:peak={PEAK}:desat=0")
    graph.link_nodes(source, curve, graph.add("buffersink")).configure()
    frame = av.VideoFrame.from_ndarray(np.repeat(light[None, :, None], 3, axis=2).astype(np.float32), format="gbrpf32le")
    frame.color_trc, frame.pts, frame.time_base = 8, 0, Fraction(1, 8)  # AVCOL_TRC_LINEAR
    graph.push(frame)
    shown = graph.pull()
    assert isinstance(shown, av.VideoFrame)
    return shown.to_ndarray()[0, :, 0]


def test_the_curve_is_the_one_of_ffmpegs_filter():
    light = np.linspace(0, PEAK, 64)
    assert moebius(light) == pytest.approx(ffmpegs_curve(light), abs=2e-6)
    assert moebius(np.array([KNEE, PEAK])) == pytest.approx([KNEE, 1.0])


def test_dark_light_keeps_its_level_on_a_screen_of_gamma_2_4_and_1000_nits_are_white():
    for nits in (0.0, 5.0, 20.0, 60.0):
        assert sdr(grey(pq_code(nits)), PQ).ravel().astype(int) == pytest.approx(255 * (nits / 203) ** (1 / 2.4), abs=1), nits
    assert sdr(grey(pq_code(1000)), PQ).min() == sdr(grey(65535), PQ).min() == 255
    assert 190 < sdr(grey(pq_code(203)), PQ).mean() < 225, "white paper is light, and leaves room for what shines"
    ramp = [int(sdr(grey(pq_code(nits)), PQ)[0, 0, 0]) for nits in (1, 3, 10, 30, 100, 203, 400, 700, 1000)]
    assert ramp == sorted(set(ramp))


def test_the_white_of_hlg_at_three_quarters_is_reference_white():
    """BT.2408: 75 % HLG is 203 cd/m2 on a screen of 1000."""
    assert int(sdr(grey(round(0.75 * 65535)), HLG)[0, 0, 0]) == pytest.approx(int(sdr(grey(pq_code(203)), PQ)[0, 0, 0]), abs=1)
    assert sdr(grey(65535), HLG).min() == 255
    assert _light_table(HLG)[[32767, 32768, 65535]] == pytest.approx([1 / 12, 1 / 12, 1], rel=1e-3), "the two halves meet, BT.2100 table 5"


def test_colours_become_those_of_bt709_and_grey_stays_grey():
    red709 = np.array([0.6274, 0.0691, 0.0164]) * 50  # BT.709's red, 50 cd/m2, seen from BT.2020
    coded = np.array([pq_code(nits) for nits in red709], dtype=np.uint16).reshape(1, 1, 3)
    red, green, blue = sdr(coded, PQ)[0, 0].astype(int)
    assert red == pytest.approx(255 * (50 / 203) ** (1 / 2.4), abs=2)
    assert max(green, blue) < 25
    assert np.ptp(sdr(grey(30_000), PQ)) == 0


def test_a_file_is_mapped_where_the_rule_says_so_and_its_codes_are_shown_as_they_are_where_not(tmp_path):
    codes = [pq_code(nits) for nits in (5, 60, 203, 1000)]
    path = write_hdr(tmp_path / "v.mp4", codes)
    plain, mapped = read_clip(path, RULE), read_clip(path, MAPPED)
    assert plain.flags == mapped.flags == ("hdr",)
    middles = [8, 24, 40, 56]
    assert plain.frames_THWC[4, 24, middles, 1].astype(int) == pytest.approx([code / 257 for code in codes], abs=3)
    assert mapped.frames_THWC[4, 24, middles, 1].astype(int) == pytest.approx([int(sdr(grey(code), PQ)[0, 0, 0]) for code in codes], abs=4)


def test_a_clip_that_is_no_hdr_is_the_same_under_both_rules(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square())
    assert np.array_equal(read_clip(path, RULE).frames_THWC, read_clip(path, MAPPED).frames_THWC)


def test_the_policies_accept_repair_and_reject(tmp_path):
    write_hdr(tmp_path / "clips" / "hdr.mp4", [pq_code(nits) for nits in (5, 60, 203, 1000)])
    write_video(tmp_path / "clips" / "plain.mp4", moving_square())

    def published(policy: str):
        ws = project(tmp_path, clips={"policies": {"hdr": policy}, "max_reject_share": 0.5})
        publish_clip_catalog(ws)
        return publish_latents(ws, role="clip")

    accepted, repaired, rejected = (published(policy) for policy in ("accept", "repair", "reject"))
    contents = [publication.table("index").set_index("flags")["content"].to_dict() for publication in (accepted, repaired)]
    assert contents[0].keys() == contents[1].keys() == {"", "hdr,frozen"}
    assert {flags for flags in contents[0] if contents[0][flags] != contents[1][flags]} == {"hdr,frozen"}, "other pixels"
    assert repaired.counts.computed == 2, "what is mapped and what is not are kept apart"
    assert rejected.rejects()["reason"].tolist() == ["hdr"]
    assert rejected.counts.computed == 0
