"""The public names; whoever changes them changes this list, and so sees it."""

import importlib
import re

import pytest
from documents import PAGES, blocks_of

from lightning_fed.deferred import Deferred

PUBLIC = {
    "lightning_fed": """
        Aggregation Algorithm BestModel ByExamples Compression CountedColumn Evaluation ExamplePrivacy
        FederatedStrategy FederationPlan LocalTraining Masking PlainStep Privacy RobustRule ServerRule SitePolicy
        SitePrivacy SiteReport Statistics Uniform ValueCodec Weighting __version__ load_global_model
    """,
    "lightning_fed.callbacks": """
        AdaBN DifferentialPrivacy Ditto FedDyn FedProx FedRep FederatedFinetuning RoundCallback Scaffold
        ScoreTable SharedStatistics SharedVector TopKCompression adapt merged
    """,
    "lightning_fed.radiology": """
        EvaluationTransform HistogramStandardisation LayoutReader OrientedEnergy PooledRadiographs Radiograph
        RadiographDataModule RadiographDataset TrainingTransform bone_bright landmark_sums monai_training_transform
        polarity read_fracatlas read_grazpedwri read_labels read_mura read_picture read_radiograph
        salter_harris_from_ao split_patients split_radiographs standard_scale
    """,
    "lightning_fed.simulation": """
        Baselines InProcessRun OnRay Simulation SiteOverrides VirtualSite count_in_process evaluate_in_process
        federate_in_process simulate
    """,
    "lightning_fed.errors": """
        AlreadyConnectedError BudgetExhaustedError ConfigError ConnectionLostError DataError FederationError
        IdentityError LedgerError ModelMismatchError PlanError PlanRefusedError ProtocolError QuorumLostError
        SiteDroppedError StoreError UpdateRefusedError
    """,
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these_and_are_documented(module):
    room = importlib.import_module(module)
    assert sorted(room.__all__) == PUBLIC[module].split()
    for name in room.__all__:
        one = getattr(room, name)
        one = one.resolve() if isinstance(one, Deferred) else one  # whose own docstring would do for any
        assert name == "__version__" or callable(one)
        assert name in ("__version__", "LayoutReader") or (one.__doc__ or "").strip(), f"{module}.{name}"
        assert not (one.__doc__ or "").startswith(f"{name}("), f"{module}.{name} has only what dataclass says of it"


PAGES_IMPORTS = [
    (block.place, module, name.split(" as ")[0].strip())
    for page in PAGES
    for block in blocks_of(page)
    if block.language == "python"
    for module, names in re.findall(r"^\s*from (lightning_fed[\w.]*) import \(?([^)\n]+)", block.text, re.M)
    for name in names.split(",")
]


def test_what_the_pages_import_is_public():
    assert len(PAGES_IMPORTS) > 20
    private = [one for one in PAGES_IMPORTS if one[2] not in PUBLIC.get(one[1], "").split()]
    assert not private, private
