"""Clients whose connections and requests count together: one address, or one IPv6 network."""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

__all__ = ("client_address_key", "counted_address")


def counted_address(address: str) -> str:
    """Return what an address counts as: itself, and with IPv6 the network of 64 bits it is in.

    Whoever has one address of such a network usually has all of them. What is no address, as the
    name of a socket, counts as itself.
    """
    try:
        read = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(read, ipaddress.IPv4Address):
        return str(read)
    if read.ipv4_mapped is not None:
        return str(read.ipv4_mapped)
    return str(ipaddress.ip_network((read, 64), strict=False))


def client_address_key(request: Scope) -> str:
    """Return what a request's client counts as; all of a socket without addresses are one."""
    client = request.get("client")
    return counted_address(client[0]) if client else ""
