"""Undocumented parts of Ray: the address of the cluster that this machine belongs to, and whether a cluster asks for a token."""

from __future__ import annotations

import grpc
from ray._private.services import canonicalize_bootstrap_address

TESTED = ">=2.60,<2.61"

__all__ = ["TESTED", "address_of_this_machine", "asks_for_a_token"]

_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def address_of_this_machine() -> str | None:
    """host:port of the cluster that ``RAY_ADDRESS`` names, or that was started on this machine; None if there is none. It may have died since."""
    try:
        return canonicalize_bootstrap_address("auto")
    except ConnectionError:
        return None


def asks_for_a_token(place: str, within_s: float) -> bool | None:
    """Whether the cluster whose head is at ``place`` (host:port) refuses a call that brings no token; None if it answers neither way."""
    with grpc.insecure_channel(place) as channel:
        call = channel.unary_unary(_CALL, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=within_s)
        except grpc.RpcError as error:
            return True if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
    return False
