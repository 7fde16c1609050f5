"""The dimensions of VBench that can be measured: the weights and packages that each needs, and the range of its values.

The facts are those of vbench 0.1.5. VBench and its networks are not shipped: the package runs in its own environment (``environment.py``), and
the weights are downloaded from their authors' addresses (``weights.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motive_pipeline.graph.metrics import Metric, Style

BACKEND = "vbench"


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One file of weights: its place below the folder of weights, address, published hash, size and licence."""

    file: str
    url: str
    sha256: str
    megabytes: float
    licence: str


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of VBench.

    ``packages`` are those, besides ``vbench``, whose version affects the value. A value times ``scale`` is on VBench's scale of 0 to 1. A value
    outside ``limits`` is invalid: the formula cannot give it, or for the two learned heads no real weights give it. ``min_frames`` is the
    smallest number of frames, counted after keeping every ``max(1, round(fps / sampled_fps))``-th one if ``sampled_fps`` is set.
    ``non_commercial`` names what may not be used commercially. ``is_pickled``: the checkpoint contains more than tensors, so loading it runs
    code from it.
    """

    name: str
    meaning: str
    weights: tuple[Weight, ...] = ()
    packages: tuple[str, ...] = ()
    limits: tuple[float, float] = (0.0, 1.0)
    scale: float = 1.0
    min_frames: int = 2
    sampled_fps: float | None = None
    non_commercial: str = ""
    is_pickled: bool = False

    @property
    def metric(self) -> Metric:
        """The dimension as a metric."""
        is_share = self.name == "dynamic_degree"
        style = Style(
            title=f"{self.name.replace('_', ' ')}, VBench",
            unit="% of videos" if is_share else "0 to 1",
            factor=100.0 if is_share else 1.0,
            decimals=1 if is_share else 4,
            meaning=f"{self.meaning} (VBench itself)",
        )
        return Metric(name=self.name, backend=BACKEND, style=style, bounds=self.limits if self.limits == (0.0, 1.0) else None)


_DINO_CODE = "https://raw.githubusercontent.com/facebookresearch/dino/7c446df5b9f45747937fb0d72314eb9f7b66930a"
_CLIP = "https://openaipublic.azureedge.net/clip/models"


def _dino_code(name: str, sha256: str) -> Weight:
    return Weight(
        file=f"dino_model/facebookresearch_dino_main/{name}",
        url=f"{_DINO_CODE}/{name}",
        sha256=sha256,
        megabytes=0.03,
        licence="Apache-2.0 (code of facebookresearch/dino)",
    )


DINO = Weight(
    file="dino_model/dino_vitbase16_pretrain.pth",
    url="https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    sha256="bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e",
    megabytes=343.0,
    licence="Apache-2.0 (DINO ViT-B/16)",
)
DINO_CODE = (
    _dino_code("hubconf.py", "fa80babf82c71d2123e23b05061eb1991a1fbc9877238f250b2a25023e910f72"),
    _dino_code("vision_transformer.py", "b1f998d5f49ab43666b9fc6d007c5f6540c3ead2e8645e144f74045f63ff44d7"),
    _dino_code("utils.py", "962a97e1acda1c986dfd921275325e4083f9016dddadcf018f1ccf03fa600eab"),
)
CLIP_B = Weight(
    file="clip_model/ViT-B-32.pt",
    url=f"{_CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    megabytes=354.0,
    licence="MIT (OpenAI CLIP ViT-B/32)",
)
CLIP_L = Weight(
    file="clip_model/ViT-L-14.pt",
    url=f"{_CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    megabytes=933.0,
    licence="MIT (OpenAI CLIP ViT-L/14)",
)
AMT = Weight(
    file="amt_model/amt-s.pth",
    url="https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth",
    sha256="07e7e03405c213fe4405678db9b42d05671e48c56faf6a441b99bb0047d3cf77",
    megabytes=12.0,
    licence="CC BY-NC 4.0, not for commercial use (AMT-S)",
)
RAFT = Weight(
    file="raft_model/models/raft-things.pth",
    url="https://github.com/sczhou/ProPainter/releases/download/v0.1.0/raft-things.pth",
    sha256="fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
    megabytes=21.0,
    licence="BSD-3-Clause (RAFT of princeton-vl, the file of their models.zip)",
)
LAION = Weight(
    file="aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    url="https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/6d122adad522ab246644d9dc1c6d7a3810ee255f/sa_0_4_vit_l_14_linear.pth",
    sha256="2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
    megabytes=0.004,
    licence="MIT (LAION aesthetic predictor)",
)
MUSIQ = Weight(
    file="pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
    url="https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
    sha256="358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
    megabytes=109.0,
    licence="PolyForm Noncommercial 1.0.0 and NTU S-Lab License, not for commercial use (MUSIQ of pyiqa)",
)

_DIMENSIONS = (
    Dimension(
        name="subject_consistency",
        meaning="similarity of each frame to the one before and to the first, by DINO; 1 for a still video",
        weights=(DINO, *DINO_CODE),
    ),
    Dimension(
        name="background_consistency",
        meaning="similarity of each frame to the one before and to the first, by CLIP; 1 for a still video",
        weights=(CLIP_B,),
        packages=("openai-clip",),
    ),
    Dimension(
        name="temporal_flickering",
        meaning="1 minus the mean difference of consecutive frames; 1 for a still video (VBench leaves out moving prompts first; here all count)",
    ),
    Dimension(
        name="motion_smoothness",
        meaning="how well AMT-S interpolates every odd frame from its neighbours; also near 1 for a still video",
        weights=(AMT,),
        min_frames=3,
        non_commercial="the network AMT-S, code and weights: CC BY-NC 4.0",
        is_pickled=True,
    ),
    # For two sampled frames VBench requires round(0.5) = 0 moving pairs, so every video would count as moving.
    Dimension(
        name="dynamic_degree",
        meaning="videos that move at all, by RAFT's optical flow",
        weights=(RAFT,),
        min_frames=3,
        sampled_fps=8.0,
    ),
    Dimension(
        name="aesthetic_quality",
        meaning="LAION's score of how pleasing the frames look",
        weights=(CLIP_L, LAION),
        packages=("openai-clip",),
        limits=(-0.5, 1.5),
        min_frames=1,
    ),
    Dimension(
        name="imaging_quality",
        meaning="MUSIQ's score of noise, blur and exposure",
        weights=(MUSIQ,),
        packages=("pyiqa",),
        limits=(-0.5, 1.5),
        scale=0.01,
        min_frames=1,
        non_commercial="the package pyiqa and its MUSIQ weights: PolyForm Noncommercial 1.0.0 and NTU S-Lab License",
    ),
)
DIMENSIONS: Mapping[str, Dimension] = {dimension.name: dimension for dimension in _DIMENSIONS}
"""By VBench's own ids, in display order."""

VBENCH_METRICS = tuple(dimension.metric for dimension in _DIMENSIONS)
