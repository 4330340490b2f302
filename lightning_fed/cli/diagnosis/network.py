"""Whether the coordinator is where it should be, and lets this site in."""

import zmq

from lightning_fed.cli.diagnosis.findings import Findings
from lightning_fed.transport.addresses import host_and_port, listens_over_ipv6
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.knock import Knock


def report_knock(findings: Findings, address: str, door: Knock, site: str, coordinator: PublicCard) -> None:
    """Say how far a knock came."""
    host, port = host_and_port(address)
    met = f"{host}:{port} ({door.said})" if door.said != host else f"{host}:{port}"
    match door.outcome:
        case "no such name":
            findings.fail(
                "address",
                f"the name {host!r} does not resolve: {door.said}.",
                f"Check the spelling (coordinator), and this computer's DNS: getent hosts {host}",
            )
        case "refused":
            findings.fail(
                "address",
                f"{met} refuses the connection: nobody listens there.",
                "Start the coordinator, or correct the port; some firewalls answer like that, too.",
            )
        case "timed out":
            findings.fail(
                "address",
                f"{met} does not answer.",
                f"A firewall in between drops it, or the computer is off. Have outbound TCP to port {port} allowed.",
            )
        case "unreachable":
            findings.fail("address", f"there is no way to {met}.", "Check this computer's network and its routes.")
        case _:
            findings.ok("address", f"{met} takes TCP connections; there and back takes {1000 * door.seconds:.1f} ms.")
    match door.outcome:
        case "open":
            findings.ok(
                "handshake",
                f"whoever listens has the keys of {coordinator.name!r}, and knows those of {site!r}. The connection "
                "is encrypted.",
            )
        case "unknown key":
            findings.fail(
                "handshake",
                f"whoever listens at {address} does not know the key of site {site!r}.",
                f"Send {site}.pub to the coordinator's operator, for its roster; or the roster there is older than "
                "this one.",
            )
        case "another":
            findings.fail(
                "handshake",
                f"whoever listens at {address} does not have the keys of {coordinator.name!r} in this site's roster: "
                "another program, a coordinator with other keys, or a forwarder whose coordinator is down.",
                "Check the address, and that the roster is the newest.",
            )
        case "silent":
            findings.fail(
                "handshake",
                f"whoever listens at {address} takes the connection and says nothing.",
                "Check the address: that is another program, or a proxy that waits for something else.",
            )
        case _:
            findings.skip("handshake", "there is no connection.")


def check_listening(findings: Findings, address: str) -> None:
    """Look whether a coordinator could listen at an address, by doing so for a moment."""
    with findings.of("address"):
        over_ipv6 = listens_over_ipv6(address)
        with zmq.Context() as context, context.socket(zmq.ROUTER) as listening:
            listening.setsockopt(zmq.LINGER, 0)
            listening.setsockopt(zmq.IPV6, over_ipv6)
            try:
                listening.bind(address)
            except zmq.ZMQError as error:
                findings.fail(
                    "address",
                    f"a coordinator cannot listen at {address}: {error}.",
                    "If this federation's coordinator runs already, it is that one: lightning-fed status STORE. "
                    "Otherwise stop what has the port, or choose another address.",
                )
                return
        findings.ok("address", f"{address} is free to listen at. Whether sites reach it they see: doctor site.")
