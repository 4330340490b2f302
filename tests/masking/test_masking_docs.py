import re
from pathlib import Path

from lightning_fed.errors import PlanError
from lightning_fed.masking.graph import sparse_reach
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol.terms import terms_of

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "masking.md").read_text()


def names_in(*paths: Path) -> set[str]:
    return set(re.findall(r"def (test_\w+)\(", "".join(path.read_text() for path in paths)))


def test_every_test_that_the_page_names_exists():
    bare = set(re.findall(r"`(test_[a-z0-9_]+)`", PAGE))
    assert len(bare) > 8
    assert bare <= names_in(*HERE.glob("test_*.py"), *HERE.parent.glob("protocol/test_coordinator_*.py"))
    placed = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", PAGE)
    assert len(placed) > 8
    assert [(path, test) for path, test in placed if test not in names_in(HERE.parents[1] / path)] == []


def test_the_page_s_table_of_sparse_graphs_is_what_the_code_chooses():
    rows = re.findall(r"^\| (\d+) % \| (\d+) % \| (.*) \| (\d+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 8
    for colluding, dropped, cells, first in rows:
        share = (int(colluding), int(dropped))
        for n, cell in zip((101, 200, 500, 1000, 2000, 4000), cells.split(" | "), strict=True):
            found = sparse_reach(n, *(n * part // 100 for part in share))
            assert cell == (f"{2 * found[0]} / {2 * found[1]}" if found else "full")
        n = int(first)
        assert sparse_reach(n, *(n * part // 100 for part in share)) is not None
        if n > 101:
            assert sparse_reach(n - 1, *((n - 1) * part // 100 for part in share)) is None


def test_the_page_s_table_of_colluding_hospitals_is_what_the_plans_terms_are():
    rows = re.findall(r"^\| (\d+) \| (t = .*|impossible.*) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 7
    for n, cells in rows:
        for colluding, cell in enumerate(cells.split(" | ")):
            try:
                terms = terms_of(FederationPlan(quorum=2, masking=Masking(colluding=colluding)), int(n))
            except PlanError:
                assert cell == "impossible"
                continue
            may_drop = ("none", "one", "two", "three", "four")[int(n) - terms.smallest_cohort]
            assert cell == f"t = {terms.threshold}, {may_drop}"
