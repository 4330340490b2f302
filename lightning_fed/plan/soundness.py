"""Which parts of a plan go together: each rule is a reason why two of them do not."""

from lightning_fed.aggregation.contracts import Algorithm, RobustRule, Weighting
from lightning_fed.aggregation.norm_bounding import BoundedMean
from lightning_fed.aggregation.registry import PLAIN_MEANS
from lightning_fed.aggregation.weightings import ByExamples, Uniform
from lightning_fed.errors import PlanError
from lightning_fed.plan.best import BestModel
from lightning_fed.plan.compression import Compression
from lightning_fed.plan.masking import Masking
from lightning_fed.plan.privacy import Privacy, SitePrivacy


def check_composition(
    algorithm: Algorithm, masking: Masking, privacy: Privacy, compression: Compression, quorum: int, metrics: list[str]
) -> None:
    """Refuse a plan whose parts do not go together.

    Args:
        algorithm: the plan's, with its settings.
        masking: likewise.
        privacy: likewise.
        compression: likewise.
        quorum: fewest updates of a round.
        metrics: names of the metrics that sites report.

    Raises:
        PlanError: says which two parts, why, and what to change.
    """
    masked = masking.mode == "required"
    if algorithm.needs_single_updates and masked:
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} compares single updates with one another, and plan.masking hides "
            "them: the coordinator learns only their sum. Choose masking: {mode: off}, if the sites may let the "
            "coordinator see each update, or an algorithm that works on sums; site_norm_bounding bounds each update "
            "at its own site."
        )
    if compression.method == "topk" and masked:
        raise PlanError(
            "plan.compression.method = 'topk' sends other coordinates from each site, and then masks do not cancel. "
            "Choose 'vote', which finds common coordinates under the masks, or 'randomk'."
        )
    if compression.method != "none" and not algorithm.plain_mean:
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} needs whole updates, and plan.compression sends parts of them. "
            f"Choose one of {', '.join(PLAIN_MEANS)}, or compression: {{method: none}}."
        )
    combine = algorithm.build(1).combine
    if compression.method != "none" and masked and type(combine) not in (ByExamples, Uniform):
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} weighs updates in a way of its own, and what plan.compression leaves "
            "out under masks can be kept at a site only if its weight is known. Choose ByExamples or Uniform in the "
            "algorithm, compression: {method: none}, or masking: {mode: off}."
        )
    if compression.method != "none" and compression.feedback == "ef21" and type(combine) not in (ByExamples, Uniform):
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} weighs updates in a way of its own, and with "
            "plan.compression.feedback = 'ef21' each site has to count alike, or what it has sent could not be taken "
            "back later. Choose ByExamples or Uniform in the algorithm, or feedback: residual."
        )
    if (privacy.site or privacy.example) and not (algorithm.needs_single_updates or sums_no_data(combine)):
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} sums numbers that depend on the data (steps, losses, examples) "
            f"beside the updates, and plan.privacy has no noise for them. Choose one of {', '.join(PLAIN_MEANS)}."
        )
    if privacy.site:
        _check_site_level(privacy.site, algorithm, masking, compression, quorum, metrics)


def check_best(best: BestModel | None, metrics: list[str], privacy: Privacy) -> None:
    """Refuse a way to name the best global model that the rest of the plan does not allow.

    Args:
        best: the plan's.
        metrics: names of the metrics that sites report.
        privacy: the plan's.

    Raises:
        PlanError: says why, and what to change.
    """
    if best is None:
        return
    if privacy.site:
        raise PlanError(
            f"plan.best.metric = {best.metric!r} needs what the sites measure, without noise, and plan.privacy.site "
            "promises to hide whole sites. Remove plan.best; the last global model is the one to take."
        )
    if privacy.example and best.patience is not None:
        raise PlanError(
            f"plan.best.patience = {best.patience} ends the federation by an exact metric of patients' images, which "
            "carries no noise, and everybody learns when: plan.privacy.example would promise too much. Remove the "
            "patience; the best global model is named without it."
        )
    if best.metric not in metrics:
        raise PlanError(
            f"plan.best.metric = {best.metric!r} is none of plan.metrics = {metrics}, and only those are reported. Add "
            "it there, or name one of them."
        )


def check_counted(
    what: str,
    rounds: int,
    algorithm: Algorithm,
    masking: Masking,
    privacy: Privacy,
    compression: Compression,
    personal: list[str],
    metrics: list[str],
) -> None:
    """Refuse a plan that counts and asks for something that only training has.

    Raises:
        PlanError: says what, and what to write instead.
    """
    if rounds != 1:
        raise PlanError(f"plan.rounds = {rounds}, and plan.{what} is counted once: every sum costs privacy. Set 1.")
    if masking.mode == "required" and masking.bits != 32:
        raise PlanError(
            f"plan.masking.bits = {masking.bits} would round what plan.{what} counts. Set masking: {{bits: 32}}."
        )
    if algorithm.name != "fedavg" or compression.method != "none" or personal or metrics:
        raise PlanError(
            f"plan.{what} goes with algorithm: {{name: fedavg}} and without compression, personal and metrics, which "
            "are about models. Leave those out."
        )
    if what == "evaluation" and (privacy.site or privacy.example):
        raise PlanError(
            "plan.privacy does not go with plan.evaluation: noise that hides a row would drown what is measured of few "
            "patients. Leave plan.privacy out, and let each site's policy decide whether it takes part."
        )
    if privacy.site:
        raise PlanError(
            "plan.privacy.site does not go with plan.statistics: its noise is made for updates of a model, and would "
            "be added to the digits of which a count is made. Choose privacy: {example: {epsilon: 1, delta: 1.0e-5}}, "
            "which hides each row."
        )
    if privacy.example and (privacy.example.clipping_norm != 1.0 or privacy.example.replace_layers):
        raise PlanError(
            "plan.privacy.example.clipping_norm and replace_layers are about training: of plan.statistics it is known "
            "how far a row moves them. Leave both out."
        )


def sums_no_data(combine: Weighting | RobustRule) -> bool:
    """Whether what is summed beside the updates depends on nothing but who takes part.

    Under a promise ``ByExamples`` becomes ``Uniform``. Of a weighting of another package nothing is known.
    """
    return type(combine) in (ByExamples, Uniform, BoundedMean)


def _check_site_level(
    site: SitePrivacy,
    algorithm: Algorithm,
    masking: Masking,
    compression: Compression,
    quorum: int,
    metrics: list[str],
) -> None:
    if algorithm.needs_single_updates or algorithm.name in ("scaffold", "feddyn"):
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} does not work on one sum of clipped updates, and plan.privacy.site "
            "adds its noise to just that. Choose one of "
            f"{', '.join(PLAIN_MEANS)}."
        )
    if compression.method == "vote":
        raise PlanError(
            "plan.compression.method = 'vote' opens votes, which depend on a site's data and carry no noise, so "
            "plan.privacy.site would promise too much. Choose 'randomk', whose coordinates depend on nothing."
        )
    if compression.method != "none" and compression.feedback == "ef21":
        raise PlanError(
            "plan.compression.feedback = 'ef21' goes on with what was summed in earlier rounds, so that the noise of "
            "plan.privacy.site would be added again in each. Choose feedback: residual."
        )
    if site.mechanism == "distributed" and masking.mode == "off":
        raise PlanError(
            "plan.privacy.site.mechanism = 'distributed' gives each site a share of the noise that protects only sums, "
            "and with masking: {mode: off} the coordinator sees single updates. Choose mode: required, or 'central'."
        )
    if metrics:
        raise PlanError(
            f"plan.metrics = {metrics} publishes what the sites measure without noise, and plan.privacy.site "
            "promises to hide whole sites. Remove them; each site still sees its own metrics in its loggers."
        )
    shares = quorum - masking.colluding
    if site.mechanism == "distributed" and shares < 1:
        raise PlanError(
            f"plan.quorum = {quorum} less masking.colluding = {masking.colluding} leaves no honest share of "
            "noise. Raise the quorum."
        )
