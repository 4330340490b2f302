"""What does not go with asynchronous rounds, and why."""

from lightning_fed.aggregation.contracts import Algorithm
from lightning_fed.aggregation.fedbuff import FedBuff
from lightning_fed.errors import PlanError
from lightning_fed.plan.compression import Compression
from lightning_fed.plan.masking import Masking
from lightning_fed.plan.privacy import Privacy


def check_asynchronous(
    algorithm: Algorithm,
    masking: Masking,
    privacy: Privacy,
    compression: Compression,
    cohort_size: int | None,
    metrics: list[str],
) -> None:
    """Refuse what needs rounds that all sites train together, where the plan has none.

    Raises:
        PlanError: says what, why, and what to change.
    """
    if not isinstance(algorithm, FedBuff):
        return
    if masking.mode == "required" and metrics:
        raise PlanError(
            f"plan.metrics = {metrics} are summed under masks among the very sites whose sum made the model that they "
            "are of, and with plan.algorithm = 'fedbuff' these sites may go on from a later one. Leave plan.metrics "
            "out, and see to each site's own loggers; or choose an algorithm with rounds, or masking: {mode: off}, if "
            "the sites may let the coordinator see each update."
        )
    if privacy.site:
        raise PlanError(
            "plan.algorithm = 'fedbuff' has fast sites take part more often than slow ones and weighs updates by their "
            "age, and plan.privacy.site is accounted for by rounds in which all sites count alike. Choose an algorithm "
            "with rounds; plan.privacy.example, which each site accounts for by its own steps, goes with both."
        )
    if compression.method != "none":
        raise PlanError(
            f"plan.compression.method = {compression.method!r} chooses coordinates for a round and keeps the rest for "
            "the next one, and with plan.algorithm = 'fedbuff' there are updates of several rounds in one sum. Choose "
            "compression: {method: none}, or an algorithm with rounds."
        )
    if cohort_size is not None:
        raise PlanError(
            f"plan.cohort_size = {cohort_size} draws sites for a round, and with plan.algorithm = 'fedbuff' every site "
            "trains at its own pace. Leave it out; plan.algorithm.buffer says how many updates make a version."
        )
