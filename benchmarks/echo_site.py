"""A site that trains nothing: it answers each round at once, so that what is measured is the exchange."""

from collections.abc import Callable

from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.global_model import state_bytes
from lightning_fed.update.layout import Layout, TensorSpec


def take_part(
    address: str,
    identity: Identity,
    roster: Roster,
    initial: Callable[[], Tensor],
    answer: Callable[[memoryview], memoryview] = memoryview,
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Take part in a whole federation.

    Args:
        address: of the coordinator.
        identity: the site's.
        roster: all members.
        initial: the first global model, flat float32, shape ``(P,)``.
        answer: makes a round's update of the bytes of its global model; as they are, unless it is given. That doubles
            the model each round.
        after_round: called once the next global model is there.
    """
    session = SiteSession(identity.name, identity.name, "benchmark", identity.signing_key, roster.members)
    connection = SiteConnection(address, identity, roster.coordinator, session, 60.0, lambda notice: None)
    vector = initial()
    layout = Layout((TensorSpec("weight", tuple(vector.shape), "float32"),))
    connection.wait(lambda s: s.plan, "the plan")
    connection.call(lambda s: s.join(layout))
    if connection.wait(lambda s: "initial" if s.initial_wanted else s.model and "model", "the model") == "initial":
        state = state_bytes({"weight": vector}, layout)
        connection.call(lambda s: s.offer_initial(state))
        del state
    del vector
    while (begun := connection.wait(_begun_with_model, "a round"))[0]:
        connection.call(lambda s, begun=begun: s.submit(begun[0], answer(begun[1]), SiteReport(1)))
        connection.wait(lambda s, begun=begun: s.model[0] >= begun[0], "the next model")
        after_round()
    connection.call(lambda s: s.leave(m.Leave("done")))
    connection.close()


def _begun_with_model(session: SiteSession) -> tuple[int, memoryview] | None:
    """The round to answer and its global model; round 0 when the federation is over."""
    if session.model is None:
        return None
    version, data = session.model
    if session.finished == version:
        return 0, memoryview(b"")
    return (session.begun, memoryview(data)) if session.begun == version + 1 else None
