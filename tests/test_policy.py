"""What a hospital's own policy refuses, whatever the plan and the roster say."""

import re
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from lightning_fed import SitePolicy
from lightning_fed.errors import PlanRefusedError
from lightning_fed.plan import ExamplePrivacy, FederationPlan, LocalTraining, Masking, Privacy, SitePrivacy
from lightning_fed.policy import Leaving
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.aliases import aliases
from lightning_fed.update.layout import layout_of

CONFIGS = Path(__file__).parents[1] / "configs"
OFF = Masking("off")


def violations(policy, plan):
    """What the policy does not allow of a plan."""
    try:
        policy.check_plan(plan, "north")
    except PlanRefusedError as error:
        return error.violations
    return ()


def test_everything_beyond_a_policy_is_named_at_once_with_its_value_and_the_limit():
    plan = FederationPlan(
        quorum=2,
        masking=OFF,
        local=LocalTraining(steps=1),
        metrics=["val_loss", "age"],
        privacy=Privacy(example=ExamplePrivacy(epsilon=12.0, delta=0.01)),
    )
    policy = SitePolicy(
        smallest_quorum=5,
        masking="required",
        min_colluding=1,
        min_local_steps=20,
        metrics=["val_loss"],
        max_epsilon=8.0,
        max_delta=1e-5,
        unit="site",
    )
    with pytest.raises(PlanRefusedError, match=r"site 'north' refused the plan: \n- quorum = 2 ") as caught:
        policy.check_plan(plan, "north")
    for part in (
        "quorum = 2 is below this site's minimum of 5 (smallest_quorum)",
        "masking.mode = 'off' lets the coordinator see this site's update, and this site requires masks (masking)",
        "protects this site against 0 others that help the coordinator, and it wants protection against 1",
        "wants differential privacy for each site (unit)",
        "privacy.example.epsilon = 12 is above this site's maximum of 8 (max_epsilon)",
        "privacy.example.delta = 0.01 is above this site's maximum of 1e-05 (max_delta)",
        "local.steps = 1 is below this site's minimum of 20 (min_local_steps)",
        "the metrics ['age'], and this site reports only ['val_loss'] (metrics)",
    ):
        assert sum(part in violation for violation in caught.value.violations) == 1, part
        assert part in str(caught.value)
    assert len(caught.value.violations) == 8
    assert str(caught.value).endswith("ask the site's privacy officer about policy.yaml.")


# Privacy


@pytest.mark.parametrize("delta", [0.9, 0.05, 1.1e-5])
@pytest.mark.parametrize("promise", ["example", "site"])
def test_a_plan_cannot_buy_a_small_epsilon_with_a_large_delta(delta, promise):
    units = {"example": ExamplePrivacy(noise_multiplier=1.0, delta=delta), "site": SitePrivacy(delta=delta)}
    plan = FederationPlan(privacy=Privacy(**{promise: units[promise]}))
    # Whoever limits epsilon need not know that delta must be limited as well.
    (found,) = violations(SitePolicy(max_epsilon=1.0), plan)
    assert found.startswith(f"privacy.{promise}.delta = {delta:g} is above this site's maximum of 1e-05")
    assert violations(SitePolicy(max_epsilon=1.0, max_delta=0.95), plan) == ()


CENTRAL_OFF = FederationPlan(masking=OFF, privacy=Privacy(site=SitePrivacy("central")))
CENTRAL = FederationPlan(privacy=Privacy(site=SitePrivacy("central")))
DISTRIBUTED = FederationPlan(privacy=Privacy(site=SitePrivacy("distributed")))
EXAMPLE = FederationPlan(privacy=Privacy(example=ExamplePrivacy(epsilon=1.0)))
BOTH = FederationPlan(privacy=Privacy(example=ExamplePrivacy(epsilon=1.0), site=SitePrivacy("central")))


@pytest.mark.parametrize("plan", [CENTRAL_OFF, CENTRAL])
@pytest.mark.parametrize("policy", [SitePolicy(max_epsilon=8.0), SitePolicy(unit="site")])
def test_noise_that_the_coordinator_adds_is_no_privacy_from_the_coordinator(plan, policy):
    (found,) = violations(policy, plan)
    assert "privacy.site.mechanism = 'central' leaves the noise to the coordinator" in found


@pytest.mark.parametrize(
    ("policy", "accepted"),
    [
        (SitePolicy(), [CENTRAL_OFF, CENTRAL, DISTRIBUTED, EXAMPLE, BOTH, FederationPlan()]),
        (SitePolicy(max_epsilon=8.0), [DISTRIBUTED, EXAMPLE, BOTH]),
        (SitePolicy(max_epsilon=8.0, mechanism="central"), [CENTRAL_OFF, CENTRAL, DISTRIBUTED, EXAMPLE, BOTH]),
        (SitePolicy(unit="site"), [DISTRIBUTED]),
        (SitePolicy(unit="site", mechanism="central"), [CENTRAL_OFF, CENTRAL, DISTRIBUTED, BOTH]),
        (SitePolicy(unit="example", max_epsilon=2.0), [EXAMPLE, BOTH]),
        (SitePolicy(masking="required", max_epsilon=8.0, mechanism="central"), [CENTRAL, DISTRIBUTED, EXAMPLE, BOTH]),
    ],
)
def test_a_policy_gets_the_unit_and_the_mechanism_that_it_wants(policy, accepted):
    plans = [CENTRAL_OFF, CENTRAL, DISTRIBUTED, EXAMPLE, BOTH, FederationPlan()]
    assert [plan for plan in plans if not violations(policy, plan)] == accepted


# Masks, steps


def test_protection_against_colluding_hospitals_can_be_demanded():
    wanted = SitePolicy(min_colluding=2)
    (found,) = violations(wanted, FederationPlan(masking=Masking(colluding=1)))
    assert "masking.colluding = 1 protects this site against 1 others" in found
    assert violations(wanted, FederationPlan(masking=Masking(colluding=2))) == ()
    # A plan may name any number where nothing is masked.
    (found,) = violations(wanted, FederationPlan(masking=Masking("off", colluding=2)))
    assert "masking.mode = 'off' protects this site against 0 others" in found


def test_sums_over_whoever_is_ready_are_no_sums_that_a_policy_could_keep_apart():
    plan = FederationPlan(masking=Masking(), algorithm={"name": "fedbuff"})
    (found,) = violations(SitePolicy(min_cohort_change=2), plan)
    assert "sums those who happen to be ready" in found
    assert violations(SitePolicy(masking="required"), plan) == ()
    assert violations(SitePolicy(min_cohort_change=2), FederationPlan(masking=Masking())) == ()


def test_rounds_of_one_step_can_be_refused():
    policy = SitePolicy(min_local_steps=10)
    (found,) = violations(policy, FederationPlan(local=LocalTraining(steps=1)))
    assert found.startswith("local.steps = 1 is below this site's minimum of 10 (min_local_steps)")
    assert violations(policy, FederationPlan(local=LocalTraining(steps=10))) == ()
    assert violations(policy, FederationPlan(local=LocalTraining(epochs=1))) == ()
    with pytest.raises(PlanRefusedError, match=r"a round has 9 optimiser steps here, below .* 10 \(min_local_steps\)"):
        policy.check_steps(9, "north")
    policy.check_steps(10, "north")
    policy.check_steps(float("inf"), "north")


# Members


def identities(*names):
    return {name: new_identity(name) for name in names}


def test_a_roster_of_one_hospital_and_four_made_up_ones_is_refused_by_their_names():
    known = identities("coordinator", "north", "south", "east", "west", "centre")
    members = {name: identity.card.fingerprint for name, identity in known.items()}
    policy = SitePolicy(smallest_quorum=5, members=members)
    cards = {name: identity.card for name, identity in known.items()}
    coordinator = cards.pop("coordinator")
    policy.check_members(Roster.of(coordinator, cards.values()).fingerprints, "north")
    policy.check_members(Roster.of(coordinator, [cards["north"], cards["south"]]).fingerprints, "north")
    # Other keys under the known names, and a name that nobody has heard of.
    made_up = identities("south", "east", "west", "elsewhere")
    roster = Roster.of(coordinator, [cards["north"], *(identity.card for identity in made_up.values())])
    with pytest.raises(PlanRefusedError, match="site 'north' refused the roster") as caught:
        policy.check_members(roster.fingerprints, "north")
    assert len(caught.value.violations) == 4
    for name in ("south", "east", "west"):
        line = f"member {name!r} has the fingerprint {made_up[name].card.fingerprint}, and this site's policy pins "
        assert line + members[name] in str(caught.value)
    assert "member 'elsewhere' has the fingerprint" in str(caught.value)
    assert "does not know the name (members)" in str(caught.value)


def test_another_coordinator_is_refused_like_any_other_member():
    known = identities("coordinator", "north")
    members = {name: identity.card.fingerprint for name, identity in known.items()}
    other = Roster.of(new_identity("coordinator").card, [known["north"].card])
    with pytest.raises(PlanRefusedError, match="member 'coordinator' has the fingerprint"):
        SitePolicy(members=members).check_members(other.fingerprints, "north")


def test_a_fingerprint_is_the_same_with_other_blanks_and_capitals_and_is_whole_or_refused():
    card = new_identity("north").card
    written = card.fingerprint.replace(" ", "").upper()
    SitePolicy(members={"north": written}).check_members({"north": card.fingerprint}, "north")
    for part in (card.fingerprint[:19], card.fingerprint + " 00ff", card.fingerprint[:-1] + "g", ""):
        with pytest.raises(PlanRefusedError, match="of member 'north' is not one of 64 hexadecimal digits"):
            SitePolicy(members={"north": part})


def test_a_policy_whose_members_are_not_filled_in_accepts_nobody():
    with pytest.raises(PlanRefusedError, match="member 'north'"):
        SitePolicy(members={}).check_members({"north": new_identity("north").card.fingerprint}, "north")


# What never leaves


class Model(nn.Module):
    """An embedding whose weight other layers use in every way there is."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.embedding = nn.Linear(4, 3, bias=False)
        self.head = nn.Linear(4, 3, bias=False)
        self.own = nn.Linear(2, 2)
        match way:
            case "tied":
                self.head.weight = self.embedding.weight
            case "another parameter of the same memory":
                self.head.weight = nn.Parameter(self.embedding.weight.data)
            case "a view of some rows":
                self.head.weight = nn.Parameter(self.embedding.weight.data[1:])
            case "a buffer that is not saved":
                del self.head.weight
                self.head.register_buffer("weight", self.embedding.weight.data, persistent=False)
            case "parametrised":
                nn.utils.parametrizations.orthogonal(self.head)


@pytest.mark.parametrize(
    ("names", "whole", "said"),
    [
        ({}, False, "in no list yet: the model's tensors (never_leaves)."),
        ({"head.weight": ["head.weight"]}, False, "in no list yet: further tensors of the model (never_leaves)."),
        ({"head.weight": ["head.weight"]}, True, "about policy.yaml."),
        ({"neck.weight": ["neck.weight"]}, True, "about policy.yaml."),
    ],
)
def test_a_refused_plan_names_the_tensors_that_are_known_and_says_if_there_may_be_others(names, whole, said):
    policy = SitePolicy(smallest_quorum=3, never_leaves=["head.*"])
    with pytest.raises(PlanRefusedError) as caught:
        policy.check_plan(FederationPlan(quorum=2), "north", leaving=Leaving(names, whole))
    assert str(caught.value).endswith(said)
    assert len(caught.value.violations) == 1 + ("head.weight" in names)
    # A model alone is refused as it will be trained, which is later.
    policy.check_plan(FederationPlan(quorum=3), "north", leaving=Leaving(names, whole))


WAYS = [
    "tied",
    "another parameter of the same memory",
    "a view of some rows",
    "a buffer that is not saved",
    "parametrised",
]


def leaving(module, layout):
    return aliases(module, [spec.name for spec in layout.exchanged])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pattern", ["head.weight", "head.*"])
def test_what_never_leaves_stays_under_whatever_name_it_would_leave(way, pattern):
    module = Model(way)
    with pytest.raises(PlanRefusedError, match=rf"'{re.escape(pattern)}' never leaves this site") as caught:
        SitePolicy(never_leaves=[pattern]).check_names(leaving(module, layout_of(module)), "north")
    assert "'own.weight'" not in str(caught.value)
    if way in ("tied", "a buffer that is not saved"):
        assert "tensor 'embedding.weight', which the model also holds as 'head.weight', would be" in str(caught.value)


@pytest.mark.parametrize("way", WAYS[:3])
def test_what_shares_memory_with_something_personal_is_personal(way):
    module = Model(way)
    layout = layout_of(module, ["head.*"])
    assert layout.personal == ("embedding.weight", "head.weight")
    SitePolicy(never_leaves=["head.*"]).check_names(leaving(module, layout), "north")


def test_neighbours_in_one_block_of_memory_are_tensors_of_their_own():
    module, block = Model("apart"), torch.zeros(24)
    module.embedding.weight = nn.Parameter(block[:12].view(3, 4))
    module.head.weight = nn.Parameter(block[12:].view(3, 4))
    assert aliases(module, ["embedding.weight"]) == {"embedding.weight": ("embedding.weight",)}
    SitePolicy(never_leaves=["head.*"]).check_names(leaving(module, layout_of(module, ["head.*"])), "north")


def test_buffers_never_leave_either_and_all_are_named_at_once():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(PlanRefusedError) as caught:
        SitePolicy(never_leaves=["*running*"]).check_names(leaving(module, layout_of(module)), "north")
    assert [re.findall("'([^']+)'", violation)[0] for violation in caught.value.violations] == [
        "1.running_mean",
        "1.running_var",
    ]


# The file


def test_the_shipped_policy_is_strict_and_accepts_the_shipped_plan_once_its_members_are_filled_in():
    policy = SitePolicy.load(CONFIGS / "policy.yaml")
    config = msgspec.yaml.decode((CONFIGS / "federation.yaml").read_bytes())
    policy.check_plan(msgspec.convert(config["plan"], FederationPlan), "north")
    assert policy.gives_initial is False
    assert policy.masking == "required"
    assert policy.smallest_quorum >= 3
    assert policy.min_colluding >= 1
    assert policy.min_local_steps > 1
    assert policy.max_delta is not None
    with pytest.raises(PlanRefusedError, match="member 'north'"):
        policy.check_members({"north": new_identity("north").card.fingerprint}, "north")
    plain = FederationPlan(masking=OFF, local=LocalTraining(steps=1))
    assert len(violations(policy, plain)) == 4


def test_the_lines_that_keys_show_prints_are_those_of_a_policy(tmp_path):
    cards = [new_identity(name).card for name in ("coordinator", "north")]
    roster = Roster.of(cards[0], cards[1:])
    lines = "".join(f"  {name}: {fingerprint}\n" for name, fingerprint in roster.fingerprints.items())
    (tmp_path / "policy.yaml").write_text(f"members:\n{lines}")
    SitePolicy.load(tmp_path / "policy.yaml").check_members(roster.fingerprints, "north")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epsilon": 0.0}, "max_epsilon = 0.0 must be"),
        ({"max_epsilon": float("inf")}, "max_epsilon = inf must be"),
        ({"max_delta": 1.0}, "max_delta = 1.0 must lie"),
        ({"smallest_quorum": 0}, "smallest_quorum = 0 must be at least 1"),
        ({"min_colluding": -1}, "min_colluding = -1 must be at least 0"),
        ({"min_local_steps": 0}, "min_local_steps = 0 must be at least 1"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(PlanRefusedError, match=re.escape(message)):
        SitePolicy(**settings)


@pytest.mark.parametrize(
    ("policy", "gives"),
    [
        (SitePolicy(), True),
        (SitePolicy(masking="required"), False),
        (SitePolicy(masking="required", gives_initial=True), True),
        (SitePolicy(gives_initial=False), False),
    ],
)
def test_a_site_that_requires_masks_gives_no_initial_model_unless_it_says_so(policy, gives):
    assert policy.gives_initial is gives
