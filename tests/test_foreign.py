"""Classes of other packages in a plan: found, checked, and never imported because somebody else said so."""

import sys

import msgspec
import numpy as np
import pytest

from lightning_fed import Compression, FederationPlan, Masking, Uniform, ValueCodec
from lightning_fed.errors import PlanError, PlanRefusedError, ProtocolError, UpdateRefusedError
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.simulation import Simulation
from lightning_fed.simulation.expansion import coordinator_config

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
class TwoFaced(Slow):
    version: ClassVar[str] = "3"

    def build(self, size, statistics=()):
        return Aggregation(ByExamples() if size == 1 else Rooted(), PlainStep(size))

@dataclass(frozen=True)
class NoVersion(Slow):
    pass

@dataclass(frozen=True)
class Nameless(Algorithm):
    version: ClassVar[str] = "1"
    build = Slow.build
    rate: float = 1.0

@dataclass(frozen=True)
class SaysSingle(Slow):
    version: ClassVar[str] = "1"
    needs_single_updates: ClassVar[bool] = True

@dataclass(frozen=True)
class Unbuildable(Slow):
    version: ClassVar[str] = "1"

    def build(self, size, statistics=()):
        raise KeyError("size")

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
    (tmp_path / "raising.py").write_text("raise RuntimeError('no such device')")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)")
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


def test_the_rest_of_a_plan_with_a_class_that_is_not_allowed_is_read_without_importing_it(outside):
    made = FederationPlan(algorithm={"class_path": "outside.Slow"}, quorum=7)
    del sys.modules["outside"]
    rest = FederationPlan.without_foreign_classes(made.to_bytes())
    assert (rest.quorum, rest.algorithm) == (7, {"name": "fedavg"})
    for data in (b'[{"class_path":"outside.Slow"}]', b'{"quorum":{"class_path":"outside.Slow"},"rounds":0}', b"\xff"):
        assert FederationPlan.without_foreign_classes(data) is None
    assert "outside" not in sys.modules


def test_a_key_that_stands_twice_hides_no_class(outside):
    data = FederationPlan().to_bytes()
    twice = b'{"compression":{"values":{"class_path":"outside.Bytes"}},' + data[1:]
    with pytest.raises(PlanError, match="does not know"):
        FederationPlan.from_bytes(twice)
    assert "outside" not in sys.modules


def test_a_plan_that_is_nested_without_end_is_refused():
    for depth in (1_000, 50_000):
        with pytest.raises(PlanError, match="cannot be read"):
            FederationPlan.from_bytes(b'{"algorithm":' + b"[" * depth + b"]" * depth + b"}")


def test_another_version_at_a_site_is_named(outside):
    data = plan("outside.Slow").to_bytes().replace(b'"version":"3"', b'"version":"4"')
    with pytest.raises(PlanError, match=r"uses version '4' of outside.Slow, and '3' is installed here"):
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
        ("outside.Nameless", {}, "has no name"),
        ("outside.SaysSingle", {}, "needs_single_updates = True, and its combine, ByExamples, has no aggregate"),
        ("outside.Unbuildable", {}, r"cannot be built.*KeyError\('size'\)"),
        ("raising.Anything", {}, "cannot be imported: no such device"),
        ("leaving.Anything", {}, "cannot be imported: 3"),
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

    def with_privacy(path):
        return msgspec.convert({"algorithm": {"class_path": path}, **private}, FederationPlan)

    assert with_privacy("outside.Slow").privacy.example.epsilon == 8
    with pytest.raises(PlanError, match="sums numbers that depend on the data"):
        with_privacy("outside.OwnWeights")
    with pytest.raises(PlanError, match="sums numbers that depend"):
        _ = Exchange(with_privacy("outside.TwoFaced"), 7, 3).aggregation


def test_a_weighting_whose_weights_nobody_knows_is_refused_where_masks_hide_what_was_left_out(outside):
    randomk = Compression("randomk", 0.5)
    algorithm = {"class_path": "outside.OwnWeights"}
    with pytest.raises(PlanError, match="weighs updates in a way of its own"):
        FederationPlan(algorithm=algorithm, compression=randomk)
    assert FederationPlan(algorithm=algorithm, compression=randomk, masking=Masking("off")).aggregation
    assert FederationPlan(algorithm={"class_path": "outside.Slow"}, compression=randomk).aggregation


@pytest.mark.parametrize("method", ["topk", "randomk"])
def test_a_weighting_whose_weights_nobody_knows_is_refused_where_each_site_has_to_count_alike(outside, method):
    known = Compression(method, 0.5, feedback="ef21")
    with pytest.raises(PlanError, match=r"each site has to count alike.* Choose .* feedback: residual"):
        FederationPlan(algorithm={"class_path": "outside.OwnWeights"}, compression=known, masking=Masking("off"))
    plan = FederationPlan(algorithm={"class_path": "outside.Slow"}, compression=known, masking=Masking("off"))
    assert type(Exchange(plan, 7, 3).aggregation.combine) is Uniform


class Broken(ValueCodec):
    """Not found in a plan: put into an exchange by hand."""

    def __init__(self, decoded=None, coded=b"1234"):
        self.decoded, self.coded = decoded, coded

    def nbytes(self, count):
        return 4

    def encode(self, values):
        return self.coded

    def decode(self, data, count):
        if isinstance(self.decoded, Exception):
            raise self.decoded
        return self.decoded


@pytest.mark.parametrize(
    "decoded",
    [ValueError("bad"), None, [1.0], np.zeros(3, np.float64), np.zeros(2, np.float32), np.full(3, np.nan, "f4")],
)
def test_whatever_a_codec_makes_of_a_sites_bytes_only_that_site_is_refused(decoded):
    plan = FederationPlan(masking=Masking("off"), compression=Compression("randomk", 0.5))
    exchange = Exchange(plan, 6, 2)
    exchange.__dict__["codec"] = Broken(decoded)
    with pytest.raises(ProtocolError):
        exchange.from_bytes(memoryview(b"1234"), np.arange(3, dtype=np.uint32))


@pytest.mark.parametrize("coded", [b"123", None, np.zeros(4, np.uint8)])
def test_a_codec_that_writes_something_else_than_its_bytes_is_named_at_the_site(coded):
    plan = FederationPlan(masking=Masking("off"), compression=Compression("randomk", 0.5))
    exchange = Exchange(plan, 6, 2)
    exchange.__dict__["codec"] = Broken(coded=coded)
    with pytest.raises(UpdateRefusedError, match=r"Broken.encode must give 4 bytes for 3 values"):
        exchange.to_bytes(np.zeros(3, np.float32), np.arange(3, dtype=np.uint32))


def test_a_simulations_coordinator_finds_the_version_anew_as_yaml_would_make_a_number_of_it(outside, tmp_path):
    sites = {"sites": ["north", "south"], "model": {}, "data": {}, "trainer": {}}
    simulation = Simulation(run="run", plan=plan("outside.Slow", init_args={"rate": 0.25}), **sites)
    config = coordinator_config(simulation, "tcp://127.0.0.1:1", tmp_path, tmp_path)
    assert config["plan"]["algorithm"] == {"class_path": "outside.Slow", "init_args": {"rate": 0.25}}
    assert msgspec.convert(config["plan"], FederationPlan) == simulation.plan
