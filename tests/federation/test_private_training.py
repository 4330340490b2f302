"""Training with privacy over sockets: what is charged, what stops, and what is refused."""

import io
import re
from contextlib import redirect_stdout

import pytest
import torch
from modules import Plain, WithBuffers, train

from lightning_fed.cli import report
from lightning_fed.plan import ExamplePrivacy, LocalTraining, Masking, Privacy, SitePrivacy
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.history import parse_history, read_history
from lightning_fed.privacy.ledger_rows import ledger_rows

MASKED = Masking("required", bits=32, bound=256.0)


def private_train(strategy, folder, policy, module, **options):
    return train({**strategy, "policy": policy}, folder, module, **options)


def rows_of(path):
    return ledger_rows(read_history(path))


def printed(*paths):
    output = io.StringIO()
    with redirect_stdout(output):
        assert report.run(["report", *map(str, paths)]) == 0
    return output.getvalue()


def test_each_round_is_charged_with_the_steps_behind_it(federation):
    here = federation(
        sites=2,
        rounds=3,
        masking=MASKED,
        local=LocalTraining(epochs=2),
        privacy=Privacy(example=ExamplePrivacy(noise_multiplier=0.8, delta=1e-2)),
    )
    here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites, start=1)]
    results = [site.result() for site in sites]
    for name, result in zip(here.sites, results, strict=True):
        rows = rows_of(here.folder / name / "ledger.jsonl")
        # 24 examples in batches of 8: three steps an epoch, two epochs a round, three rounds.
        assert result["steps"] == 18
        assert [row.round for row in rows] == [1, 2, 3]
        assert rows[-1].unit_epsilon == pytest.approx(epsilon([DpSgd(8 / 24, 0.8, 18)], 1e-2))
        assert result["metrics"]["epsilon"] == pytest.approx(rows[-1].unit_epsilon)


def test_a_target_epsilon_is_kept_to_over_all_rounds(federation):
    here = federation(
        sites=2,
        rounds=4,
        local=LocalTraining(steps=5),
        privacy=Privacy(example=ExamplePrivacy(epsilon=3.0, delta=1e-2)),
    )
    here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites, start=1)]
    for site in sites:
        assert site.result()["steps"] == 20
    for name in here.sites:
        assert 2.7 < rows_of(here.folder / name / "ledger.jsonl")[-1].unit_epsilon <= 3.0


def test_a_site_stops_before_the_release_that_would_pass_its_maximum_and_the_others_go_on(federation):
    here = federation(
        sites=3,
        rounds=4,
        quorum=2,
        masking=MASKED,
        privacy=Privacy(example=ExamplePrivacy(noise_multiplier=0.8, delta=1e-2)),
    )
    coordinator = here.coordinate(Plain)
    three_steps = epsilon([DpSgd(8 / 24, 0.8, 3)], 1e-2)
    six_steps = epsilon([DpSgd(8 / 24, 0.8, 6)], 1e-2)
    limit = (three_steps + six_steps) / 2
    careful = here.site("site-0", private_train, SitePolicy(max_epsilon=limit, max_delta=1e-2), Plain)
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:], start=2)]
    result = careful.result()
    for other in others:
        other.result()
    assert coordinator.result() == "finished"
    took_part = [event["round"] for event in here.events("round_finished") if "site-0" in event["participants"]]
    assert took_part == [1]
    assert len(here.events("round_finished")) == 4
    rows = rows_of(here.folder / "site-0" / "ledger.jsonl")
    assert [row.round for row in rows] == [1]
    assert rows[-1].unit_epsilon <= limit
    # It keeps the global model that it last had, and nothing of the round that was not released.
    for name, tensor in here.model(1).items():
        torch.testing.assert_close(result["state"][name], tensor, rtol=0, atol=0)
    assert [event["reason"] for event in here.events("site_left") if event["site"] == "site-0"] == ["stopped"]


def test_site_level_budgets_are_the_same_at_the_sites_and_at_the_coordinator(federation):
    here = federation(
        sites=3, rounds=3, masking=MASKED, privacy=Privacy(site=SitePrivacy("distributed", 2.0, quantile=0.5))
    )
    here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites, start=1)]
    for site in sites:
        site.result()
    ledgers = [here.folder / name / "ledger.jsonl" for name in here.sites] + [here.store / "ledger.jsonl"]
    spent = [[row for row in rows_of(path) if row.unit == "site"][-1].unit_epsilon for path in ledgers]
    assert spent == [pytest.approx(spent[0])] * 4
    text = printed(here.store, here.folder / "site-0" / "ledger.jsonl")
    assert text.count("distributed") >= 6
    assert re.search(rf"site level: epsilon {spent[0]:.4g} at delta 1e-05", text)
    assert "the coordinator learns only sums" in text
    # Two of the three sites are left when one subtracts its own share, and each image is released, too.
    member, example = rows_of(ledgers[0])[-2:]
    assert member.member_epsilon > 1.2 * spent[0]
    assert f"{member.member_epsilon:.4g} against a hospital that took part" in text
    assert example.unit == "example"
    assert f"example level: epsilon {example.unit_epsilon:.4g}" in text


def test_an_older_copy_of_a_ledger_that_was_put_back_is_noticed_when_the_site_joins_again(federation):
    here = federation(
        sites=2,
        rounds=3,
        quorum=2,
        gather_s=30.0,
        privacy=Privacy(example=ExamplePrivacy(noise_multiplier=1.0, delta=1e-2)),
    )
    here.coordinate(Plain)
    ledger = here.folder / "site-0" / "ledger.jsonl"
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites, start=1)]
    here.wait_for("round_finished")
    sites[0].kill()
    newest = ledger.read_bytes()
    anchored = [event["head"] for event in here.events("ledger_anchored") if event["site"] == "site-0"]
    # The site may have written of its next round before it was killed; the coordinator has not heard of that.
    lines = newest.splitlines(keepends=True)
    heads = [parse_history(b"".join(lines[:count]), ledger.name, None, "").head for count in range(1, len(lines) + 1)]
    older = b"".join(lines[: heads.index(anchored[-1])])
    ledger.write_bytes(older)
    error = here.site("site-0", train, Plain).error()
    assert error.startswith("LedgerError")
    assert "is an older copy" in error
    ledger.write_bytes(newest)
    assert here.site("site-0", train, Plain).result()
    sites[1].result()


def test_batch_norms_statistics_are_refused_with_what_to_do(federation):
    here = federation(
        sites=2, rounds=1, gather_s=2.0, privacy=Privacy(site=SitePrivacy("central")), masking=Masking("off")
    )
    here.coordinate(WithBuffers)
    error = here.site("site-0", train, WithBuffers).error()
    assert "running_mean" in error
    assert "GroupNorm" in error


def test_layers_are_replaced_on_every_site_and_at_the_coordinator_alike(federation):
    here = federation(
        sites=2,
        rounds=2,
        privacy=Privacy(example=ExamplePrivacy(noise_multiplier=1.0, delta=1e-2, replace_layers=True)),
    )
    coordinator = here.coordinate(WithBuffers)
    sites = [here.site(name, train, WithBuffers, seed) for seed, name in enumerate(here.sites, start=1)]
    for site in sites:
        assert not [name for name in site.result()["state"] if "running" in name]
    assert coordinator.result() == "finished"


def test_a_policy_with_a_maximum_refuses_a_plan_without_privacy(federation):
    here = federation(sites=2, rounds=1, gather_s=2.0)
    here.coordinate(Plain)
    site = here.site("site-0", private_train, SitePolicy(max_epsilon=8.0), Plain)
    assert "wants differential privacy (max_epsilon), and the plan's privacy has no such promise" in site.error()


def test_an_edited_ledger_stops_the_site_before_training(federation):
    here = federation(
        sites=2, rounds=1, gather_s=2.0, privacy=Privacy(example=ExamplePrivacy(noise_multiplier=1.0, delta=1e-2))
    )
    first = here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites, start=1)]
    for site in sites:
        site.result()
    first.result()
    ledger = here.folder / "site-0" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"noise_multiplier":1.0', '"noise_multiplier":9.0'))
    again = federation(sites=2, name="again", rounds=1, gather_s=2.0, privacy=here.plan.privacy)
    again.coordinate(Plain)
    (again.folder / "site-0").mkdir()
    ledger.rename(again.folder / "site-0" / "ledger.jsonl")
    assert "was edited" in again.site("site-0", train, Plain).error()
