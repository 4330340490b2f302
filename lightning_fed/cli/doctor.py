"""``lightning-fed doctor``: what would go wrong, before anything runs."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.console import Console

from lightning_fed.cli.diagnosis.findings import Findings, show, show_json
from lightning_fed.cli.diagnosis.keys import check_key, check_own_roster, check_roster
from lightning_fed.cli.diagnosis.machine import check_clock, check_versions
from lightning_fed.cli.diagnosis.network import check_listening, report_knock
from lightning_fed.cli.diagnosis.site_settings import SiteSettings, mapping_in, read_site
from lightning_fed.cli.package import serve_arguments
from lightning_fed.cli.parser import NamesNearest
from lightning_fed.cli.passphrases import asking
from lightning_fed.errors import ConfigError, PlanRefusedError
from lightning_fed.transport.identity import Identity, load_identity
from lightning_fed.transport.knock import Knock, knock
from lightning_fed.transport.passphrase import passphrase_of
from lightning_fed.transport.roster import Roster

if TYPE_CHECKING:  # what needs torch is imported where it is needed
    from lightning_fed.protocol.messages import Welcome


def run(arguments: Sequence[str]) -> int:
    """Look at a site or a coordinator, and print a table.

    Returns:
        0, or 1 if there is a cross.
    """
    options = _parser().parse_args(list(arguments[1:]))
    side, chosen = options.subcommand, options[options.subcommand]
    look = {"site": _look_at_site, "coordinator": _look_at_coordinator, "policy": _look_at_policy}[side]
    findings = Findings()
    with Console(stderr=True).status("looking ..."):
        look(findings, chosen)
    if chosen.json:
        show_json(findings)
    else:
        show(
            findings,
            f"doctor {side} " + (f"--policy {chosen.policy}" if side == "policy" else f"--config {chosen.config}"),
        )
    return 1 if findings.failed else 0


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed doctor",
        description="Look at keys, network, plan, model, data and disk before anything runs. The exit code is 1 if "
        "there is a cross; warnings and what was not checked do not count.",
    )
    commands = parser.add_subcommands()
    for side, of_what in (
        ("site", "the config of lightning-fed fit"),
        ("coordinator", "that of lightning-fed coordinate"),
    ):
        one = NamesNearest(description=f"Look at a {side}. Nothing is trained, sent or written.")
        one.add_argument("--config", type=Path, required=True, help=of_what)
        one.add_argument("--quick", action="store_true", help="only what needs no model: keys, roster, network, clock")
        one.add_argument("--json", action="store_true", help="one JSON object instead of a table")
        one.add_argument(
            "--line_mbit", "--line-mbit", type=float | None, default=None, help="measured speed of the line, in Mbit/s"
        )
        if side == "site":
            one.add_argument(
                "--plan",
                type=Path | None,
                default=None,
                help="the coordinator's config, to take the plan from; without it the coordinator is asked",
            )
            one.add_argument("--fingerprint", type=str | None, default=None, help="the federation's model's")
            one.add_argument("--timeout_s", "--timeout-s", type=float, default=5.0, help="of each step of a connection")
        commands.add_subcommand(side, one, help=f"look at a {side}")
    commands.add_subcommand("policy", _of_a_policy(), help="look at a policy, and at a plan by it")
    return parser


def _of_a_policy() -> NamesNearest:
    """A privacy officer's, who has neither the site's config nor its keys."""
    parser = NamesNearest(
        description="Look at a policy, and say what a plan asks for and all that the policy refuses of it. Nobody is "
        "connected to, and no keys or model are needed."
    )
    parser.add_argument("--policy", type=Path, required=True, help="the policy's file")
    parser.add_argument("--site", type=str, required=True, help="the site's name")
    parser.add_argument(
        "--plan", type=Path | None, default=None, help="the coordinator's config, to take the plan from"
    )
    parser.add_argument("--roster", type=Path | None, default=None, help="the roster, to compare the members with")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def _look_at_policy(findings: Findings, options: Namespace) -> None:
    from lightning_fed.cli.diagnosis.terms import look_by_policy

    roster = check_roster(findings, options.roster, None) if options.roster else None
    look_by_policy(findings, options.policy, options.site, options.plan, roster)


def _look_at_coordinator(findings: Findings, options: Namespace) -> None:
    try:
        config = mapping_in(options.config)
    except ConfigError as error:
        findings.fail("config", str(error))
        return
    check_versions(findings)
    key, roster_path = (
        Path(config.get("identity", "keys/coordinator.key")),
        Path(config.get("roster", "keys/roster.yaml")),
    )
    given = config.get("passphrase_file")
    identity = check_key(findings, key, asking(Path(given) if given else None))
    roster = check_roster(findings, roster_path, identity)
    if identity is not None and roster is not None and identity.name != roster.coordinator.name:
        findings.fail(
            "key",
            f"{key} is the identity of {identity.name!r}, and the roster's coordinator is {roster.coordinator.name!r}.",
            "Name the coordinator's key file (identity).",
        )
    store = Path(config.get("store", "."))
    check_clock(findings, [key, roster_path, options.config, store / "run.json", store / "events.jsonl"])
    check_listening(findings, str(config.get("address", "tcp://127.0.0.1:5790")))
    if "upstream" in config:
        _look_upwards(findings, config["upstream"])
        return
    if options.quick:
        return
    serve_arguments(["doctor", "--config", str(options.config)])
    from lightning_fed.cli.diagnosis.coordinator import check_training

    check_training(findings, options.config, roster, options.line_mbit)


def _look_upwards(findings: Findings, upstream: object) -> None:
    """Look at a region's part in the level above; what it gets from there is named, and not checked."""
    with findings.of("upstream"):
        needed = ("address", "identity", "roster")
        if not isinstance(upstream, dict) or not all(isinstance(upstream.get(name), str) for name in needed):
            raise ConfigError(f"upstream needs {', '.join(needed)}. Write them into the region's config.")
        file, given = Path(upstream["roster"]), upstream.get("passphrase_file")
        identity = load_identity(upstream["identity"], asking(Path(given) if given else None), "upstream.identity")
        roster = Roster.load(file)
        roster.check_own(identity.card, file)
        findings.ok("upstream", f"{file} has the keys of {identity.name!r}, as which this region is a site above.")
        with knock(upstream["address"], identity, roster.coordinator, 5.0) as door:
            report_knock(findings, upstream["address"], door, identity.name, roster.coordinator)
    findings.skip(
        "plan",
        "a region has its plan from the coordinator above: plan, quorum, policy, model, disk, memory and line are not "
        "checked.",
        "Start it: lightning-fed region refuses what cannot be used, with the reason. Its sites: doctor site.",
    )


def _look_at_site(findings: Findings, options: Namespace) -> None:
    check_versions(findings)
    try:
        settings = read_site(options.config)
    except ConfigError as error:
        findings.fail("config", str(error))
        return
    # As the strategy does: a fit asks nobody.
    passphrase = partial(passphrase_of, file=settings.passphrase_file)
    identity = check_key(findings, settings.identity, passphrase, settings.site, settings.identity_from)
    roster, identity = check_own_roster(
        findings, settings.roster, settings.ledger, settings.identity, passphrase, identity
    )
    policy_file = [settings.policy] if isinstance(settings.policy, Path) else []
    check_clock(findings, [settings.identity, settings.roster, options.config, settings.ledger, *policy_file])
    with ExitStack() as connection:
        door: Knock | None = None
        if identity is None or roster is None:
            findings.skip("address", "a connection needs the site's keys and the roster.")
        else:
            with findings.of("address"):
                waiting = knock(settings.coordinator, identity, roster.coordinator, options.timeout_s)
                door = connection.enter_context(waiting)
                report_knock(findings, settings.coordinator, door, settings.site, roster.coordinator)
        if options.quick:
            return
        welcome = _welcome(findings, options, settings.policy, door)
    serve_arguments(["doctor", "--config", str(options.config)])
    _try_site(findings, options, settings, identity, roster, welcome)


def _welcome(
    findings: Findings, options: Namespace, given: Path | Mapping[str, Any] | None, door: Knock | None
) -> "Welcome | None":
    """What the coordinator says to a site that comes, or would say by the plan in a file; None if that is not known."""
    from lightning_fed.protocol import messages as m

    if options.plan is not None:
        from lightning_fed.cli.diagnosis.terms import plan_bytes_of, policy_of

        policy = None
        with suppress(PlanRefusedError):  # it is a cross of its own, below
            policy = policy_of(given)
        with findings.of("plan"):
            return m.Welcome("", plan_bytes_of(options.plan, policy.foreign_classes if policy else ()))
        return None
    cure = "Name the coordinator's config, which its operator has: --plan federation.yaml"
    if door is None or door.socket is None:
        findings.skip("plan", "the coordinator was not reached, and so not asked for it.", cure)
        return None
    from lightning_fed.transport.inquiry import ask_for_plan

    with findings.of("protocol"):
        answer = ask_for_plan(door.socket, options.timeout_s)
        if isinstance(answer, m.Welcome):
            findings.ok(
                "protocol", f"both sides speak version {m.VERSION}; the newest global model is {answer.version}."
            )
            return answer
        if answer is None:
            findings.warn(
                "protocol", "the coordinator lets this site in and does not answer: it may be busy.", "Ask again."
            )
        elif answer.kind in ("AlreadyConnectedError", "IdentityError"):
            findings.warn(
                "protocol", f"the coordinator says: {answer.reason}", "If that is this site's fit, all is well."
            )
        else:
            findings.fail("protocol", f"the coordinator says: {answer.reason}")
    findings.skip("plan", "the coordinator has not said it.", cure)
    return None


def _try_site(
    findings: Findings,
    options: Namespace,
    settings: SiteSettings,
    identity: Identity | None,
    roster: Roster | None,
    welcome: "Welcome | None",
) -> None:
    from lightning_fed.cli.diagnosis.terms import check_policy, check_quorum, read_plan
    from lightning_fed.cli.diagnosis.training import check_config, check_radiographs, check_step

    policy = check_policy(findings, settings.policy, settings.site, roster)
    plan, allowed = read_plan(findings, welcome.plan, policy, settings.site) if policy and welcome else (None, False)
    if plan is not None and roster is not None:
        check_quorum(findings, plan, roster)
    if not check_config(findings, settings.config):
        return
    check_radiographs(findings, settings.config)
    check_step(findings, settings, plan, policy)
    if plan is None or welcome is None or policy is None or identity is None or roster is None:
        findings.skip("joining", "that needs keys, the roster, a policy and the plan.")
        findings.skip("model", "what of it is exchanged depends on the plan.")
        return
    from lightning_fed.cli.diagnosis.training import check_model, rehearse
    from lightning_fed.policy import SitePolicy

    if not allowed:
        # Which has been said, and says nothing of the model.
        policy = SitePolicy(never_leaves=policy.never_leaves, foreign_classes=policy.foreign_classes)
    join = rehearse(findings, settings, plan, welcome, policy, identity, roster)
    if join is not None:
        check_model(findings, join, plan, settings, roster, options.fingerprint, options.line_mbit)
