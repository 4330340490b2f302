"""The plan: where it comes from, and whether the site's policy and the roster go with it."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
from jsonargparse import ArgumentError

from lightning_fed.cli.diagnosis.findings import Findings
from lightning_fed.cli.diagnosis.keys import is_open_to_others
from lightning_fed.cli.diagnosis.site_settings import mapping_in
from lightning_fed.cli.parser import NamesNearest, converted, without_choices
from lightning_fed.cli.plan_words import Plan, in_words
from lightning_fed.errors import ConfigError, FederationError, PlanRefusedError
from lightning_fed.foreign import class_paths
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol.coordinator.roster_change import check_members
from lightning_fed.protocol.terms import quorum_of
from lightning_fed.transport.roster import Roster

_NO_POLICY = (
    "the site accepts whatever plan the coordinator sends, be it without masks, and whoever is in the roster, and may "
    "be asked for its untrained model"
)

_OTHERS = (
    *("address", "identity", "passphrase_file", "roster", "store", "model", "checkpoint", "seed"),
    *("logger", "metrics_port", "metrics_host", "keep", "show"),
)
"""Keys of a coordinator's config beside its plan."""


def plan_of(path: Path) -> FederationPlan:
    """The plan of a coordinator's config, whatever else stands in that.

    Raises:
        ConfigError: the file cannot be read, or a setting of its plan is not one.
        PlanError: a value of the plan that no federation can run with.
    """
    parser = NamesNearest(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--plan", type=FederationPlan, default=FederationPlan())
    # Those are the coordinator's own affair, and may name classes that a site does not have.
    for other in _OTHERS:
        parser.add_argument(f"--{other}", type=Any)
    without_choices(parser)
    try:
        config = parser.parse_args(["--config", str(path)])
    except ArgumentError as error:
        raise ConfigError(f"the plan of {path} cannot be read: {error}") from error
    return converted({"plan": config.plan.as_dict()}, dict[str, FederationPlan])["plan"]


def plan_bytes_of(path: Path, allowed: Collection[str]) -> bytes:
    """The plan of a coordinator's config, in the bytes in which its coordinator would send it.

    Args:
        path: the config; it comes from elsewhere, as a plan over the line does, so nothing is imported because of it.
        allowed: import paths of the classes of other packages that the plan may name.

    Returns:
        The bytes; as the config has its settings where it names other classes, which ``read_plan`` refuses unread.

    Raises:
        ConfigError: the file cannot be read, or a setting of its plan is not one.
        PlanError: a value of the plan that no federation can run with.
    """
    plan = mapping_in(path, as_text=True).get("plan")
    return plan_of(path).to_bytes() if set(class_paths(plan)) <= {*allowed} else msgspec.json.encode(plan)


def policy_of(given: Path | Mapping[str, Any] | None) -> SitePolicy | None:
    """The policy that a site's config names, or spells out.

    Raises:
        PlanRefusedError: it is none.
    """
    if given is None:
        return None
    if isinstance(given, Path):
        return SitePolicy.load(given)
    try:
        return msgspec.convert(given, SitePolicy)
    except msgspec.ValidationError as error:
        raise PlanRefusedError(f"the policy in the site's config cannot be read: {error}. Mend it.") from error


def check_policy(
    findings: Findings, given: Path | Mapping[str, Any] | None, site: str, roster: Roster | None
) -> SitePolicy | None:
    """Look at the site's policy, and at the roster by it."""
    with findings.of("policy"):
        policy = policy_of(given)
        if policy is None:
            findings.warn(
                "policy",
                f"there is none: {_NO_POLICY}.",
                "Write one, and name it: policy. 'lightning-fed init --role policy --folder policy' makes a folder "
                "with one to begin from.",
            )
            return SitePolicy()
        findings.ok("policy", f"{given if isinstance(given, Path) else 'the one in the config'} can be read.")
        if isinstance(given, Path) and is_open_to_others(given):
            findings.warn("policy file", f"others can write to {given}, and so allow more.", f"chmod go-w {given}")
        if policy.members is None:
            findings.warn(
                "members",
                "the policy pins no members: whoever makes the roster can fill a quorum with sites of his own.",
                "Compare the lines of 'lightning-fed keys show ROSTER' by phone, and put them under members.",
            )
        elif roster is None:
            joins = "" if policy.members else "members is empty, so this site joins nobody yet; and "
            findings.skip("members", f"{joins}there is no roster to compare the policy's members with.")
        else:
            with findings.of("members"):
                policy.check_members(roster.fingerprints, site, signed=roster.consortium is not None)
                findings.ok(
                    "members", f"everybody in the roster is pinned by the policy: {', '.join(roster.fingerprints)}."
                )
        return policy
    return None


def read_plan(
    findings: Findings, plan_bytes: bytes, policy: SitePolicy, site: str
) -> tuple[FederationPlan | None, bool]:
    """Read a coordinator's plan, None if it cannot be, and say whether the policy allows it."""
    try:
        plan = FederationPlan.from_bytes(plan_bytes, policy.foreign_classes)
    except PlanRefusedError as error:
        # The rest of it is looked at too, so that everything is named at once.
        rest = FederationPlan.without_foreign_classes(plan_bytes)
        with findings.of("plan"):
            if rest is not None:
                policy.check_plan(rest, site, error.violations)
            raise error
        return None, False
    except FederationError as error:
        findings.fail("plan", str(error))
        return None, False
    with findings.of("plan"):
        policy.check_plan(plan, site)
        findings.ok("plan", f"the policy allows the plan {plan.name!r} of {plan.rounds} rounds ({plan.hash[:12]}).")
        return plan, True
    return plan, False


def look_by_policy(findings: Findings, file: Path, site: str, plan_file: Path | None, roster: Roster | None) -> None:
    """What a privacy officer can see without the site: what a plan asks for, and what of it a policy refuses.

    Args:
        findings: takes what is found.
        file: the policy.
        site: whose it is.
        plan_file: the coordinator's config; None if there is none yet.
        roster: the federation's, likewise.
    """
    policy = check_policy(findings, file, site, roster)
    if policy is None:
        return
    if plan_file is None:
        findings.skip(
            "plan", "there is none to look at.", "Ask the coordinator's operator for it: --plan coordinator.yaml"
        )
        return
    with findings.of("plan"):
        plan, _ = read_plan(findings, plan_bytes_of(plan_file, policy.foreign_classes), policy, site)
        if plan is None:
            return
        for what, text in _asked_for(plan):
            findings.tell("asks for", f"{what}: {text}")
        if roster is not None:
            check_quorum(findings, plan, roster)
        if plan.counted is None:
            findings.skip(
                "model",
                "the names of its tensors (never_leaves) and the steps of a local epoch (min_local_steps) are known "
                "where model and data are.",
                f"At the site: lightning-fed doctor site --config site.yaml --plan {plan_file.name}",
            )


def _asked_for(plan: FederationPlan) -> list[tuple[str, str]]:
    """The plan in plain words, as headings and sentences."""
    if plan.counted is None:
        return in_words(msgspec.convert(dataclasses.asdict(plan), Plan))
    if measured := plan.evaluation:
        by = (measured.label, measured.patient, *measured.subgroups)
        shown = "figures of each site" if measured.sites else "only totals over all sites"
        what = f"{', '.join(measured.models)} on the cases of each site, by {', '.join(by)}; {shown}"
        return [("Measures", f"{what}; nothing of fewer than {measured.minimum_count} patients of either class.")]
    assert plan.statistics is not None
    columns = ", ".join(plan.statistics.columns)
    return [("Counts", f"{columns}, over all sites; no cell of fewer than {plan.statistics.minimum_count} rows.")]


def check_quorum(findings: Findings, plan: FederationPlan, roster: Roster) -> None:
    """Whether the roster has as many sites as a round of the plan needs."""
    count = len(roster.sites)
    with findings.of("quorum"):
        # What a coordinator asks when it starts, in its order: of masks only where there are enough sites for the plan.
        check_members(plan, count)
        quorum = quorum_of(plan, count)
        if quorum.updates > count:
            findings.fail(
                "quorum",
                f"a round needs {quorum.updates} sites ({quorum.why}), and the roster names {count}.",
                "Add sites to the roster, or lower plan.quorum.",
            )
        else:
            findings.ok("quorum", f"a round needs {quorum.updates} of the roster's {count} sites ({quorum.why}).")
