"""What of a model would leave, as far as that can be told before its fit is set up."""

import lightning as L
import pytest
from torch import nn

from lightning_fed.participant.policy_checks import leaving_now
from lightning_fed.plan import ExamplePrivacy, FederationPlan, Privacy


class Made(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)
        self.body.bias.requires_grad_(False)


class MadeLater(Made):
    def configure_model(self):
        self.neck = nn.Linear(2, 2)


class MadeInSetup(Made):
    def setup(self, stage):
        self.neck = nn.Linear(2, 2)


class Shapeless(Made):
    def __init__(self):
        super().__init__()
        self.neck = nn.LazyLinear(2)


REPLACES = Privacy(example=ExamplePrivacy(epsilon=8.0, replace_layers=True))


@pytest.mark.parametrize(
    ("module", "plan", "known", "whole"),
    [
        (Made, {}, {"body.weight", "head.weight", "head.bias"}, True),
        (Made, {"personal": ["head.*"]}, {"body.weight"}, True),
        (MadeLater, {}, {"body.weight", "head.weight", "head.bias"}, False),
        (MadeInSetup, {}, {"body.weight", "head.weight", "head.bias"}, False),
        (Made, {"personal": ["tail.*"]}, set(), False),
        (Shapeless, {}, set(), False),
        (Made, {"privacy": REPLACES}, set(), False),
    ],
)
def test_what_would_leave_is_whole_where_the_fit_can_add_nothing(module, plan, known, whole):
    leaving = leaving_now(module(), FederationPlan(**plan))
    assert leaving.names.keys() == known
    assert leaving.whole is whole
