"""No block of the documents is only shown: each is run, read by what it is for, or says in a comment why not."""

import json
import re

import pytest
from commands import wrong_with
from documents import ELSEWHERE, LANGUAGES, NOTES, PAGES, REASONS, ROOT, blocks_of, inline_commands, runnable
from test_troubleshooting import TEXTS, _pattern

from lightning_fed.audit.lines import Name, Writer, written

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
HOW = (
    "\nGive it the language that says what is done. Where nothing can be done, a comment before it says why.\n"
    "  ```python and ```console ($ before each command) are run by tests/docs/test_pages.py\n"
    "  ```sh is a command that is only looked at; ```yaml is read by the parser of what it is for\n"
    + "".join(f"  <!-- {note} -->  {meaning}\n" for note, meaning in NOTES.items())
    + "tests/documents.py has it all."
)


@pytest.fixture
def files_of(monkeypatch, tmp_path):
    """Writes the files of a block's page to where its commands find them, and gives their texts by name."""

    def write(block):
        files = {one.file: one.text for one in blocks_of(block.page) if one.file}
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        return files

    return write


def _untrue(block):
    """Why nothing would notice if the block were wrong; None if something does."""
    if block.language not in LANGUAGES:
        return f"is in {block.language or 'no language'}"
    if block.reason is not None and block.reason not in REASONS:
        return f"is not run for a reason that is none of the list: {block.reason}"
    if block.language == "text" and block.note.split(":")[0] not in {note.split(":")[0] for note in NOTES}:
        return "is text, and does not say where it comes from"
    if block.language == "console" and not block.reason and not block.commands:
        return "is a console without a command"
    return None


def test_every_block_is_run_or_read_or_says_why_not():
    untrue = [f"{block.place} {why}" for block in BLOCKS if (why := _untrue(block))]
    assert not untrue, "\n".join(untrue) + HOW


def test_the_collector_finds_all_fences():
    for page in PAGES:
        fences = re.findall(r"^ *```\S*", page.read_text(), flags=re.MULTILINE)
        visible = [block for block in blocks_of(page) if block.note != "invisible"]
        assert len(fences) == 2 * len(visible), page


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_a_file_of_a_page_is_used_by_the_page(page):
    for block in runnable(page):
        if block.file:
            stem = block.file.removesuffix(".py")
            rest = "".join(one.text for one in blocks_of(page) if one != block)
            assert stem in rest, f"{block.place}: nothing on the page uses {block.file}, so nothing runs it"


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_that_another_test_runs_is_named_there(page):
    assert (ROOT / page).stem.replace("-", "_") in (ROOT / ELSEWHERE[page]).read_text()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("sh", "console")], ids=lambda block: block.place)
def test_the_commands_of_a_block_are_taken_by_their_parsers(block, files_of):
    files = files_of(block)
    assert block.commands or block.reason
    wrong = {command: wrong_with(command, files, whole=block.reason is None) for command in block.commands}
    assert not any(wrong.values()), f"{block.place}: {wrong}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_in_sentences_are_there(page):
    files = {block.file: block.text for block in blocks_of(page) if block.file}
    wrong = {f"{place} `{text}`": wrong_with(text, files, whole=False) for place, text in inline_commands(page)}
    assert not any(wrong.values()), {place: why for place, why in wrong.items() if why}


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.note.startswith("example output of: ")], ids=lambda block: block.place
)
def test_an_examples_command_is_taken_by_its_parser_and_printed_with_it(block, files_of):
    command = block.note.removeprefix("example output of: ")
    assert not wrong_with(command, files_of(block), whole=True)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.note == "message"], ids=lambda block: block.place)
def test_a_message_is_one_that_the_package_prints(block):
    shown = re.sub(r"\s+", " ", block.text).strip()
    long = [text for text in TEXTS if len(text.replace("…", "")) > 20]
    assert any(re.fullmatch(_pattern(text, ".*?"), shown) for text in long), shown


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json" and not b.note], ids=lambda b: b.place)
def test_a_line_of_a_log_has_the_events_and_the_chain_of_one(block):
    table = (ROOT / "docs" / "index.md").read_text()
    line = json.loads(written({"time": "", "event": ""}, 1, b"", _writer())[0])
    for text in block.text.splitlines():
        shown = json.loads(text)
        assert f"| `{shown['event']}` |" in table
        assert shown.get("chain", {}).keys() <= line["chain"].keys()
        assert "chain" not in shown or shown["chain"].keys() == line["chain"].keys()


def _writer():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Writer(Name("coordinator", "run"), Ed25519PrivateKey.generate())
