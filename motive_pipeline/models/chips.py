"""GPUs by name, and what was measured on one: the table of docs/performance.md (a test compares them)."""

from __future__ import annotations

from dataclasses import dataclass

from motive_pipeline.errors import MotiveError


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A GPU: memory in gigabytes, and its dense bfloat16 peak in teraflops by the maker's data sheet (the SXM version where there are several)."""

    name: str
    memory_gb: float
    peak_tflops: float


def _listed(*chips: Chip) -> dict[str, Chip]:
    return {chip.name: chip for chip in chips}


CHIPS = _listed(
    Chip(name="H100", memory_gb=80.0, peak_tflops=989.0),
    Chip(name="H200", memory_gb=141.0, peak_tflops=989.0),
    Chip(name="B200", memory_gb=180.0, peak_tflops=2250.0),
    Chip(name="A100", memory_gb=80.0, peak_tflops=312.0),
    Chip(name="A100-40GB", memory_gb=40.0, peak_tflops=312.0),
    Chip(name="L40S", memory_gb=48.0, peak_tflops=362.0),
    Chip(name="RTX 4090", memory_gb=24.0, peak_tflops=165.0),
    Chip(name="RTX 5090", memory_gb=32.0, peak_tflops=209.0),
)
"""By name."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPass:
    """A gradient pass over one clip in bfloat16 with ``gradient.checkpointing: true``: seconds, share of the peak, allocated memory in GB."""

    chip: str
    model: str
    num_frames: int
    height: int
    width: int
    deterministic: bool
    seconds: float
    share: float
    memory_gb: float


MEASURED = (
    MeasuredPass(
        chip="H200", model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", num_frames=81, height=480, width=832, deterministic=True,
        seconds=3.32, share=0.26, memory_gb=13.4,
    ),
    MeasuredPass(
        chip="H200", model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", num_frames=81, height=480, width=832, deterministic=False,
        seconds=2.25, share=0.38, memory_gb=13.4,
    ),
    MeasuredPass(
        chip="H200", model="Wan-AI/Wan2.2-TI2V-5B-Diffusers", num_frames=121, height=704, width=1280, deterministic=True,
        seconds=7.36, share=0.21, memory_gb=32.7,
    ),
)  # fmt: skip


def chip_named(name: str) -> Chip:
    """The GPU called ``name``; case, blanks and hyphens do not matter, nor does a leading NVIDIA.

    Raises:
        MotiveError: no such GPU is known.
    """
    plain = {_plain(known): chip for known, chip in CHIPS.items()}
    if (chip := plain.get(_plain(name))) is not None:
        return chip
    raise MotiveError(
        f"--gpu {name!r} is not a GPU whose speed is known. Use one of {', '.join(CHIPS)}; the nearest by its bfloat16 peak will do."
    )


def chip_called(device_name: str) -> Chip | None:
    """The known GPU that a device's own name (``NVIDIA H100 80GB HBM3``) begins with; None if its speed is not known."""
    fitting = [chip for known, chip in CHIPS.items() if _plain(device_name).startswith(_plain(known))]
    return max(fitting, key=lambda chip: len(chip.name), default=None)


def _plain(name: str) -> str:
    return name.lower().replace("nvidia", "").replace("geforce", "").replace(" ", "").replace("-", "").replace("_", "")
