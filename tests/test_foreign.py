"""Classes of other packages in a plan: found, checked, and never imported because somebody else said so."""

import sys

import pytest

from lightning_fed import Compression, FederationPlan, Masking
from lightning_fed.errors import PlanError, PlanRefusedError

MODULE = """
from dataclasses import dataclass
from typing import ClassVar
from lightning_fed import Aggregation, Algorithm, ByExamples, PlainStep, ValueCodec

class Rooted(ByExamples):
    pass

@dataclass(frozen=True)
class Slow(Algorithm):
    name: ClassVar[str] = "slow"
    version: ClassVar[str] = "3"
    plain_mean: ClassVar[bool] = True
    rate: float = 0.5

    def build(self, size, statistics=()):
        return Aggregation(ByExamples(), PlainStep(size, self.rate))

@dataclass(frozen=True)
class OwnWeights(Slow):
    version: ClassVar[str] = "3"

    def build(self, size, statistics=()):
        return Aggregation(Rooted(), PlainStep(size))

@dataclass(frozen=True)
class NoVersion(Slow):
    pass

@dataclass(frozen=True)
class Bytes(ValueCodec):
    version: ClassVar[str] = "1"
    def nbytes(self, count): return count
    def encode(self, values): return bytes(len(values))
    def decode(self, data, count): return None

def function(): pass
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A package that is not ours, and not imported yet."""
    (tmp_path / "outside.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "outside"
    sys.modules.pop("outside", None)


def plan(path, masking="required", **settings):
    return FederationPlan(algorithm={"class_path": path, **settings}, masking=Masking(masking))


def test_the_plan_spells_out_settings_and_version_so_that_its_hash_holds_them(outside):
    made = plan("outside.Slow")
    assert made.algorithm == {"class_path": "outside.Slow", "init_args": {"rate": 0.5}, "version": "3"}
    assert (
        made.hash
        == plan("outside.Slow", init_args={"rate": 0.5}).hash
        != plan("outside.Slow", init_args={"rate": 1}).hash
    )
    assert made.aggregation.rate == 0.5
    assert made.foreign_classes == ["outside.Slow"]


def test_a_plan_that_came_over_the_line_imports_nothing_that_the_policy_does_not_name(outside):
    sent = [
        plan("outside.Slow").to_bytes(),
        FederationPlan(
            masking=Masking("off"), compression=Compression("topk", values={"class_path": "outside.Bytes"})
        ).to_bytes(),
    ]
    for data in sent:
        del sys.modules["outside"]
        with pytest.raises(PlanRefusedError, match=r"outside\..* nothing was imported.*foreign_classes"):
            FederationPlan.from_bytes(data, ["outside.Other"])
        assert "outside" not in sys.modules
        assert FederationPlan.from_bytes(data, ["outside.Slow", "outside.Bytes"]).to_bytes() == data


def test_another_version_at_a_site_is_named(outside):
    data = plan("outside.Slow").to_bytes().replace(b'"version":"3"', b'"version":"4"')
    with pytest.raises(PlanError, match=r"uses version 4 of outside.Slow, and 3 is installed here"):
        FederationPlan.from_bytes(data, ["outside.Slow"])


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("outside.Missing", {}, "outside.Missing cannot be imported"),
        ("nowhere.At.all", {}, "cannot be imported"),
        ("outside", {}, "outside is no dataclass"),
        ("outside.function", {}, "derives from Algorithm"),
        ("outside.Bytes", {}, "derives from Algorithm"),
        ("outside.NoVersion", {}, "has no version"),
        ("outside.Slow", {"init_args": {"rat": 1}}, r"settings \['rat'\].*Did you mean 'rate'"),
        ("outside.Slow", {"init_args": {"rate": "fast"}}, "cannot be read"),
        ("outside.Slow", {"init_args": [1]}, "must be settings by name"),
        ("outside.Slow", {"args": {}}, r"keys nobody knows: \['args'\]"),
    ],
)
def test_what_is_wrong_with_a_foreign_class_is_said(outside, path, settings, message):
    with pytest.raises(PlanError, match=message):
        plan(path, **settings)


def test_a_foreign_weighting_is_refused_under_a_promise_of_privacy(outside):
    private = {"privacy": {"example": {"epsilon": 8, "delta": 1e-5}}}
    import msgspec

    def with_privacy(path):
        return msgspec.convert({"algorithm": {"class_path": path}, **private}, FederationPlan)

    assert with_privacy("outside.Slow").privacy.example.epsilon == 8
    with pytest.raises(PlanError, match="sums numbers that depend on the data"):
        with_privacy("outside.OwnWeights")
