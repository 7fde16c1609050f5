"""Seeds that depend on what they are for, and on nothing else."""

from __future__ import annotations

import hashlib


def seed_from(*parts: object) -> int:
    """A seed: 63 bits of a hash of ``parts``."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
