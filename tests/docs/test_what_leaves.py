"""The documentation shows what the code sends and writes."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_fed.protocol import messages as m

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CAPTURED = re.compile(r"<!-- captured: ([^>]*) -->\n\n(.*?)\n\n<!-- end -->", flags=re.DOTALL)


@pytest.fixture(scope="module")
def printed():
    command = [sys.executable, str(DOCS / "capture.py")]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=120).stdout
    return dict(CAPTURED.findall(output))


@pytest.fixture(scope="module")
def pasted():
    return dict(CAPTURED.findall("".join(page.read_text() for page in DOCS.glob("*.md"))))


@pytest.fixture(scope="module")
def capture():
    spec = importlib.util.spec_from_file_location("capture", DOCS / "capture.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["capture"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["capture"]


def cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


def groups(cell: str) -> list[str]:
    """The hexadecimal groups of a cell, and how many bytes follow them."""
    shown, rest = re.fullmatch(r"`([0-9a-f ]+)`(.*)", cell).groups()
    return [*shown.split(" "), rest]


def test_the_pages_show_what_the_script_prints_wherever_it_is_the_same_each_time(printed, pasted):
    assert pasted.keys() == printed.keys()
    for name in printed.keys() - {"side by side"}:
        assert pasted[name] == printed[name], f"paste the part {name!r} of `python docs/capture.py` into its page"


def test_the_clear_bytes_on_the_page_are_those_of_the_update_and_the_masked_ones_have_their_form(printed, pasted):
    for now, then in zip(cells(printed["side by side"]), cells(pasted["side by side"]), strict=True):
        assert then[:2] == now[:2]
        assert [re.sub(r"[0-9a-f]{8}", "8 digits", cell) for cell in then] == [
            re.sub(r"[0-9a-f]{8}", "8 digits", cell) for cell in now
        ]


def test_masked_bytes_of_the_same_update_and_metric_share_no_word(printed, pasted):
    for row in (2, 4):
        masked = [cells(table["side by side"])[row][column] for table in (printed, pasted) for column in (2, 3)]
        words = [groups(cell)[:-1] for cell in masked]
        flat = [word for one in words for word in one]
        # Of 24 words of 32 random bits two are equal once in 10^7 runs.
        assert len(set(flat)) == len(flat)
        clear = cells(printed["side by side"])[row][1]
        assert not any(word in clear for word in flat)


def test_the_clear_chunk_is_the_update_in_float32_and_the_masked_one_is_longer_by_the_counts(capture):
    off, required = capture.Federation("off"), capture.Federation("required")
    assert off.update_chunk() == capture.torch.tensor(capture.UPDATES["north"]).numpy().tobytes()
    # Six values, a number of five digits of 14 bits, a count of four, 80 powers of two and 40 of four; 16 bits each.
    assert len(required.update_chunk()) == 2 * (6 + 5 + 4 + 80 + 40)
    assert off.first(m.Offer).examples == 120
    assert required.first(m.Offer).examples == 1


def test_what_is_hidden_is_in_no_byte_that_a_masked_site_sends(capture):
    sent = capture.Federation("required").sent
    assert not any(isinstance(one.message, m.Report) for one in sent)
    assert not any(b"val_loss" in one.data for one in sent)
    values = capture.torch.tensor(capture.UPDATES["north"])
    for clear in (values, 120 * values):
        assert not any(clear.numpy().tobytes()[:8] in one.payload + one.data for one in sent)


def test_both_modes_give_the_same_model_up_to_the_rings_steps(capture):
    off, required = capture.Federation("off"), capture.Federation("required")
    step = 1024.0 / (32767 // 3)
    assert (off.model.vector - required.model.vector).abs().max() <= 3 * step / 400 + 1e-6


def test_the_pages_name_every_message_of_a_site_and_every_kind_of_event():
    page = (DOCS / "what-leaves-the-building.md").read_text()
    for message in m.FromSite.__args__:
        assert f"| `{message.__name__}" in page or f", `{message.__name__}`" in page
    source = "".join(path.read_text() for path in (ROOT / "lightning_fed").rglob("*.py"))
    written = set(re.findall(r'(?:Record\(|_events\.write\()\s*"(\w+)"', source))
    described = re.findall(r"^\| `(\w+)` \| (`.*?) \| ", (DOCS / "index.md").read_text(), flags=re.MULTILINE)
    assert {event for event, _ in described} == written
    assert len(written) > 10


def test_the_event_table_s_fields_are_those_that_are_recorded(capture):
    table = dict(re.findall(r"^\| `(\w+)` \| (`.*?) \| ", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    broken = capture.Federation("off", broken=True)
    for record in (*capture.Federation("required").records, *broken.records):
        # What the service adds to what the state machine says.
        added = {"seconds", "bytes_up", "bytes_down", "software"}
        described = set(re.findall(r"`(\w+)`", table[record.event])) - added
        assert record.data.keys() <= described
        assert described - record.data.keys() <= {"saturated", "apart", "staleness"}


def test_every_test_and_link_that_the_pages_name_is_there():
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target.startswith("https://") or (DOCS / target).exists(), (page.name, target)
        for anchor in re.findall(r"masking\.md#([\w-]+)\)", text):
            heads = re.findall(r"^#+ (.*)$", (DOCS / "masking.md").read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
            assert f"def {name or ''}" in (ROOT / path).read_text(), (page.name, path, name)
