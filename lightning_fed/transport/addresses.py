"""Addresses of either Internet protocol.

``ZMQ_SOCKS_PROXY`` is left out on purpose: libzmq 4.3.5 ends the whole process ("Bad file descriptor", epoll.cpp) if a
socket is closed after a connection through a proxy has failed, which any proxy that is down brings about. A forwarder
beside the site serves instead.
"""

import re
import socket

from lightning_fed.errors import ConnectionLostError

HOW = "Write it like tcp://host:5790, or tcp://[2001:db8::1]:5790 for an IPv6 address."

# In front of a semicolon may stand the own address or interface from which to connect.
_TCP = re.compile(r"tcp://(?:[^;]*;)?(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>\d+|\*)")


def ipv6_or_not(address: str) -> list[bool]:
    """The protocols over which a host can be reached, in the order of the operating system: True is IPv6.

    ZeroMQ takes one address of one protocol: of a name that has both, with ``ZMQ_IPV6`` on, never the IPv4 one. So
    whoever connects tries one after the other. A name that cannot be looked up now may have either.

    Args:
        address: like ``tcp://host:5790`` or ``tcp://[::1]:5790``; ``*`` is every address of this machine.

    Raises:
        ConnectionLostError: it is not written so.
    """
    found = _parts(address)
    if found["six"] or found["host"] == "*":
        return [True]
    try:
        known = socket.getaddrinfo(found["host"], None, type=socket.SOCK_STREAM)
    except OSError:
        return [True, False]
    return list(dict.fromkeys(family == socket.AF_INET6 for family, *_ in known))


def listens_over_ipv6(address: str) -> bool:
    """Whether a listening socket needs ``ZMQ_IPV6``; with it ``tcp://*:5790`` serves both protocols.

    Where the kernel has no IPv6, ZeroMQ then listens over IPv4 alone. A network interface's name is none that can be
    looked up, and stands for the interface's IPv4 address.

    Raises:
        ConnectionLostError: the address is not written like one.
    """
    ways = ipv6_or_not(address)
    return ways[0] and len(ways) == 1


def host_and_port(address: str) -> tuple[str, int]:
    """The host that an address names, without brackets, and its port, 0 for any free one.

    Raises:
        ConnectionLostError: it is not written so.
    """
    found = _parts(address)
    return found["six"] or found["host"], 0 if found["port"] == "*" else int(found["port"])


def _parts(address: str) -> re.Match[str]:
    found = _TCP.fullmatch(address)
    if found is None:
        raise ConnectionLostError(f"the address {address!r} cannot be used. {HOW}")
    return found
