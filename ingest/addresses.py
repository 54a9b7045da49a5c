"""Which addresses may be connected to for what a device's message points at. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Allowed:
    """Where pictures may be fetched from.

    Attributes:
        hosts: Names, in lower case.
        networks: Networks of addresses.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        """Sort entries of the settings.

        Args:
            entries: Names of hosts, addresses, or networks.

        Raises:
            ValueError: One is none of these.
        """
        self.hosts: set[str] = set()
        self.networks: list[Network] = []
        for entry in entries:
            try:
                self.networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or ":" in entry or not entry.strip(".") or not entry.isascii():
                    raise ValueError(
                        f"{entry!r} is neither a host's name nor a network like 10.0.0.0/8"
                    ) from None
                self.hosts.add(entry.lower().rstrip("."))

    def __bool__(self) -> bool:
        return bool(self.hosts or self.networks)

    def takes(self, host: str, address: str) -> bool:
        """Whether an address may be connected to.

        Args:
            host: As the message names it.
            address: One that the name stands for.

        Returns:
            True where its network is listed; or the host is, and the address is a public one.
        """
        found = _plain(ipaddress.ip_address(address.partition("%")[0]))
        if any(found in network for network in self.networks):
            return True
        return host.lower().rstrip(".") in self.hosts and found.is_global and not found.is_multicast


def _plain(address: Address) -> Address:
    """The IPv4 address that some IPv6 addresses only wrap."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
