"""What may be shown of an evaluation over sites, from the store of a coordinator."""

from pathlib import Path

import msgspec

from lightning_fed.coordinator.recorded import read_run
from lightning_fed.coordinator.statistics import read_mean
from lightning_fed.errors import StoreError
from lightning_fed.evaluation.evidence import Evidence, write_evidence
from lightning_fed.evaluation.summed import evidence_of_sum
from lightning_fed.plan.evaluation import Evaluation
from lightning_fed.update.tally import sum_of


def write_summed(store: Path) -> Evidence:
    """Make the evidence of a store whose federation has ended, and write it as ``evaluation.json``.

    Raises:
        StoreError: the folder is no store of an evaluation, nothing was counted, or it cannot be written.
        UpdateRefusedError: no honest sites' counts add up to what was stored.
    """
    plan = read_run(store)[1]
    try:
        evaluation = msgspec.convert(plan.get("evaluation"), Evaluation)
    except msgspec.MsgspecError as error:
        raise StoreError(f"the plan of {store} has no evaluation that can be read: {error}. Restore it.") from error
    mean, sites = read_mean(store)
    evidence = evidence_of_sum(evaluation, sum_of(mean, len(sites)), sites, str(plan["name"]))
    write_evidence(store, evidence)
    return evidence
