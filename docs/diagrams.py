"""Draws the diagrams of the pages: a round, masked sums, the vote, roles and keys.

``make diagrams``, or ``python docs/diagrams.py [--folder docs/pictures]``. The numbers in them are computed here, and
the same files come each time.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import drawsvg as svg

HERE = Path(__file__).parent
INK, QUIET, PAPER = "#1f2933", "#5f6b7a", "#ffffff"
SITE, HUB, PATIENT, SECRET = "#e3f0fb", "#fdf0d5", "#fbe4e4", "#e6f4ea"
EDGE = {SITE: "#2f6fab", HUB: "#b7791f", PATIENT: "#b83232", SECRET: "#2f855a"}
SITES = ("North", "South", "St Mary's")
MODULUS = 2**16


class Sheet:
    """A drawing on white paper, so that it can be read on a dark page too.

    Args:
        width: in pixels, as all lengths here.
        height: likewise.
        says: what it shows, for those who do not see it.
    """

    def __init__(self, width: int, height: int, says: str) -> None:
        self.drawing = svg.Drawing(width, height, font_family="Helvetica, Arial, sans-serif", role="img")
        self.drawing.append_title(says)
        self.drawing.append(svg.Rectangle(0, 0, width, height, rx=10, fill=PAPER))
        self._head = svg.Marker(-1.1, -0.6, 0.1, 0.6, scale=6, orient="auto")
        self._head.append(svg.Lines(-1, 0.5, -1, -0.5, 0, 0, fill=QUIET, close=True))

    def text(self, x: float, y: float, words: str, size: int = 14, **look: str) -> None:
        """One line of text, centred unless told otherwise."""
        self.drawing.append(svg.Text(words, size, x, y, **{"fill": INK, "text_anchor": "middle", **look}))

    def box(
        self, x: float, y: float, width: float, height: float, colour: str, title: str, lines: Sequence[str] = ()
    ) -> None:
        """A box with a title and lines below it."""
        look = {"rx": 8, "fill": colour, "stroke": EDGE[colour], "stroke_width": 1.5}
        self.drawing.append(svg.Rectangle(x, y, width, height, **look))
        self.text(x + width / 2, y + 22, title, 15, font_weight="bold")
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + 44 + 19 * number, line, 13)

    def arrow(self, x1: float, y1: float, x2: float, y2: float, label: str = "", **look: str) -> None:
        """An arrow; its label stands to the right of its middle."""
        line = {"stroke": QUIET, "stroke_width": 2, "marker_end": self._head, **look}
        self.drawing.append(svg.Line(x1, y1, x2, y2, **line))
        if label:
            self.text((x1 + x2) / 2 + 8, (y1 + y2) / 2 + 4, label, 12, fill=QUIET, text_anchor="start")


def a_round() -> Sheet:
    """One round, from a global model to the next."""
    sheet = Sheet(
        880,
        470,
        "A round: the coordinator sends the global model to each hospital; each trains on its own scans and sends a "
        "masked update; the coordinator gets their weighted mean and stores the next global model.",
    )
    lines = (
        "1. sends global model r - 1",
        "3. adds the masked updates: their weighted mean is all it learns",
        "4. stores global model r, then sends it",
    )
    sheet.box(190, 20, 500, 112, HUB, "Coordinator", lines)
    for index, name in enumerate(SITES):
        left = 30 + 280 * index
        middle = left + 130
        sheet.box(left, 250, 260, 200, SITE, name)
        sheet.box(left + 20, 285, 220, 66, PATIENT, "own scans", ("never leave the hospital",))
        sheet.text(middle, 376, "2. trains some epochs on them", 13)
        sheet.text(middle, 396, "update = weights now - before", 13)
        sheet.text(middle, 416, "hidden under masks", 13)
        sheet.text(middle, 438, "5. validates global model r", 13)
        at = (270, 440, 610)[index]
        sheet.arrow(at - 20, 134, middle - 20, 248)
        sheet.arrow(middle + 20, 250, at + 20, 134)
    sheet.text(150, 176, "global model", 12, fill=QUIET)
    sheet.text(735, 176, "masked update", 12, fill=QUIET)
    return sheet


def masked_sums() -> Sheet:
    """Masks that cancel in the sum; each pair's number is drawn here."""
    draw = random.Random(6)
    values = (210, 1305, 87)
    pairs = {(a, b): draw.randrange(MODULUS) for a in range(3) for b in range(a + 1, 3)}
    sheet = Sheet(
        880,
        420,
        "Masking: each two hospitals share a random number; one adds it and the other subtracts it. What each sends "
        "looks random, and in the sum the numbers cancel.",
    )
    sheet.text(440, 30, f"One value of each update, modulo {MODULUS:,}", 14, fill=QUIET)
    total = 0
    for index, name in enumerate(SITES):
        left = 30 + 280 * index
        sheet.box(left, 50, 260, 168, SITE, name, (f"its value: {values[index]:,}",))
        sent = values[index]
        for row, ((a, b), mask) in enumerate(pair for pair in pairs.items() if index in pair[0]):
            other, sign = (b, 1) if index == a else (a, -1)
            words = f"{'+' if sign > 0 else '-'} {mask:,}  shared with {SITES[other]}"
            sheet.text(left + 130, 120 + 20 * row, words, 13, fill=EDGE[SECRET])
            sent += sign * mask
        sent %= MODULUS
        total += sent
        sheet.text(left + 130, 176, "what it sends:", 13)
        sheet.text(left + 130, 200, f"{sent:,}", 18, font_weight="bold")
        sheet.arrow(left + 130, 218, (340, 440, 540)[index], 288)
    assert total % MODULUS == sum(values)
    lines = (f"{total % MODULUS:,}: the sum of {' + '.join(f'{value:,}' for value in values)}", "and nothing else")
    sheet.box(240, 290, 400, 90, HUB, "Coordinator adds what was sent", lines)
    sheet.text(
        440, 405, "(Each hospital also adds a mask of its own, which the others help to remove.)", 12, fill=QUIET
    )
    return sheet


def the_vote() -> Sheet:
    """Which coordinates are sent: each site votes for its own largest, and only the totals are seen."""
    draw = random.Random(3)
    common = [9, 1, 0, 7, 2, 0, 8, 1, 0, 2]
    updates = [[draw.choice((-1, 1)) * max(0, value + draw.randint(-1, 4)) for value in common] for _ in SITES]
    ballots = [sorted(sorted(range(10), key=lambda one, u=update: -abs(u[one]))[:4]) for update in updates]  # type: ignore[misc]
    votes = [sum(one in ballot for ballot in ballots) for one in range(10)]
    winners = sorted(sorted(range(10), key=lambda one: -votes[one])[:3])
    sheet = Sheet(
        880,
        430,
        "The vote: each hospital marks its largest values; the sum of the marks, under masks, says which positions "
        "most hospitals want; only the values there are sent, under masks again.",
    )
    cell, left = 52, 190

    def row(y: int, label: str, cells: Sequence[str], marked: Sequence[int], colour: str) -> None:
        sheet.text(left - 14, y + 26, label, 14, text_anchor="end")
        for one, words in enumerate(cells):
            on = one in marked
            look = {"fill": colour if on else "#f4f6f8", "stroke": EDGE[colour] if on else "#cbd2d9"}
            sheet.drawing.append(svg.Rectangle(left + cell * one, y, cell - 6, 38, rx=4, **look))
            weight = "bold" if on else "normal"
            sheet.text(left + cell * one + (cell - 6) / 2, y + 25, words, 15, font_weight=weight)

    sheet.text(left, 28, "1. each hospital marks where its update is largest", 14, text_anchor="start", fill=QUIET)
    for index, name in enumerate(SITES):
        row(40 + 48 * index, name, [str(value) for value in updates[index]], ballots[index], SITE)
    words = "2. the marks are added under masks: nobody sees whose they are"
    sheet.text(left, 216, words, 14, text_anchor="start", fill=QUIET)
    row(228, "votes", [str(count) for count in votes], winners, HUB)
    words = "3. only the values at the winning positions are sent, and added under masks"
    sheet.text(left, 310, words, 14, text_anchor="start", fill=QUIET)
    sums = [sum(update[one] for update in updates) for one in range(10)]
    row(322, "sum", [str(sums[one]) if one in winners else "" for one in range(10)], winners, SECRET)
    words = "4. what was not sent stays at its hospital, is added to its next update, and so is not lost"
    sheet.text(left, 404, words, 14, text_anchor="start", fill=QUIET)
    return sheet


def roles_and_keys() -> Sheet:
    """Who holds which key, and who decides what."""
    sheet = Sheet(
        880,
        480,
        "Roles and keys: the consortium's key, kept offline, signs the roster; the coordinator has a key and the plan; "
        "each hospital has a key, a policy that accepts or refuses the plan, and its scans.",
    )
    lines = ("its key is kept offline and signs", "the roster: who takes part, with", "each member's public key")
    sheet.box(30, 30, 250, 106, SECRET, "Consortium", lines)
    lines = ("coordinator.key", "the plan: rounds, quorum, privacy", "store of global models, event log")
    sheet.box(520, 30, 330, 106, HUB, "Coordinator's operator", lines)
    sheet.arrow(280, 84, 518, 84)
    sheet.text(400, 74, "roster", 13, fill=QUIET)
    for index, name in enumerate(("North", "South")):
        left = 50 + 420 * index
        sheet.box(left, 260, 360, 190, SITE, f"Hospital {name}")
        sheet.text(left + 180, 304, f"{name.lower()}.key: made here, never leaves", 13)
        sheet.text(left + 180, 324, "policy: accepts or refuses the plan and the roster", 13)
        sheet.text(left + 180, 344, "ledger and audit log: what has left", 13)
        sheet.box(left + 70, 360, 220, 70, PATIENT, "own scans", ("never leave the hospital",))
    sheet.arrow(110, 136, 110, 258, "fingerprints,", stroke_dasharray="6 5")
    sheet.text(118, 217, "by phone", 12, fill=QUIET, text_anchor="start")
    sheet.arrow(550, 138, 330, 258)
    sheet.arrow(366, 260, 586, 138)
    sheet.text(330, 190, "plan, roster, model", 12, fill=QUIET)
    sheet.arrow(710, 138, 710, 258)
    sheet.arrow(746, 260, 746, 138, "masked updates")
    return sheet


DIAGRAMS = {"round": a_round, "masking": masked_sums, "vote": the_vote, "roles": roles_and_keys}


def main() -> None:
    """Write all diagrams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE / "pictures")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DIAGRAMS.items():
        draw().drawing.save_svg(str(folder / f"{name}.svg"))


if __name__ == "__main__":
    main()
