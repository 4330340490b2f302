"""Addresses of either Internet protocol, and how a SOCKS5 proxy is named."""

import re
import socket
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import zmq

from lightning_fed.errors import ConfigError, ConnectionLostError

HOW = "Write it like tcp://host:5790, or tcp://[2001:db8::1]:5790 for an IPv6 address."

# In front of a semicolon may stand the own address or interface from which to connect.
_TCP = re.compile(r"tcp://(?:[^;]*;)?(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?:\d+|\*)")


def ipv6_or_not(address: str) -> list[bool]:
    """The protocols over which a host can be reached, in the order of the operating system: True is IPv6.

    ZeroMQ takes one address of one protocol: of a name that has both, with ``ZMQ_IPV6`` on, never the IPv4 one. So
    whoever connects tries one after the other. A name that cannot be looked up now may have either.

    Args:
        address: like ``tcp://host:5790`` or ``tcp://[::1]:5790``; ``*`` is every address of this machine.

    Raises:
        ConnectionLostError: it is not written so.
    """
    found = _TCP.fullmatch(address)
    if found is None:
        raise ConnectionLostError(f"the address {address!r} cannot be used. {HOW}")
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


@dataclass(frozen=True)
class Proxy:
    """A SOCKS5 proxy; it looks up the coordinator's name itself.

    Args:
        host: its name or address, an IPv6 address without brackets.
        port: its port.
        user: empty if the proxy asks for none.
        password: likewise.
    """

    host: str
    port: int
    user: str = ""
    password: str = ""

    @classmethod
    def parse(cls, url: str) -> "Proxy":
        """Read ``socks5://host:port`` or ``socks5://user:password@host:port``.

        Raises:
            ConfigError: it is something else. What was given is not repeated, for it may hold a password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("socks5", "socks5h") or not parts.hostname or not port or parts.path.strip("/"):
            raise ConfigError(
                "the proxy is not written like socks5://host:1080 or socks5://user:password@host:1080. ZeroMQ knows "
                "SOCKS5 proxies alone; ask for one, or for a way out of the network for one TCP port."
            )
        return cls(parts.hostname, port, unquote(parts.username or ""), unquote(parts.password or ""))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({self})"

    def apply(self, dealer: "zmq.Socket[bytes]") -> None:
        """Have a socket connect through it."""
        dealer.setsockopt_string(zmq.SOCKS_PROXY, str(self))
        if self.user:
            dealer.setsockopt_string(zmq.SOCKS_USERNAME, self.user)
            dealer.setsockopt_string(zmq.SOCKS_PASSWORD, self.password)
