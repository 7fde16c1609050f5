"""Undocumented parts of Ray: the address of the cluster that this machine belongs to."""

from __future__ import annotations

from ray._private.services import canonicalize_bootstrap_address

TESTED = ">=2.60,<2.61"

__all__ = ["TESTED", "address_of_this_machine"]


def address_of_this_machine() -> str | None:
    """host:port of the cluster that ``RAY_ADDRESS`` names, or that was started on this machine; None if there is none. It may have died since."""
    try:
        return canonicalize_bootstrap_address("auto")
    except ConnectionError:
        return None
