"""``lightning-fed audit`` on what an operator may give it: old stores, logs without keys, folders with none."""

import pytest

from lightning_fed.audit.lines import Name, Writer
from lightning_fed.audit.log import AuditLog
from lightning_fed.coordinator.events import EventLog
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster

HUB, NORTH, SOUTH = new_identity("hub"), new_identity("north"), new_identity("south")
OLD = b'{"time":"2026-01-01T00:00:00.000+00:00","event":"started","run":"ab12","version":0}\n{"event":"round_fin\n'


def events_of(folder, run="ab12", key=HUB.signing_key):
    folder.mkdir(exist_ok=True)
    return EventLog(folder, run, key)


def holder_of(folder, site, *heads, of="ab12"):
    """A site's log that holds these heads of the coordinator's."""
    (folder / "ledgers").mkdir(parents=True)
    log = AuditLog(folder / "ledgers" / f"{site.name}.jsonl.sent", Writer(Name("site", site.name), site.signing_key))
    for head in heads:
        log.append("log_head", {"log": "coordinator", "of": of, **head.as_data(), "key": public(HUB)})
    log.close()


def public(identity):
    return identity.card.signing_public.hex()


def test_an_old_log_can_be_read_and_it_is_said_from_which_line_on_it_is_chained(lightning_fed, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "events.jsonl").write_bytes(OLD)
    code, out, _ = lightning_fed("audit", "verify", "store")
    assert code == 0
    assert "none of its 2 lines is chained. An older version has written it." in out
    log = events_of(store)
    log.write("round_finished", {"round": 1})
    log.close()
    assert log.newest_round == 0
    code, out, _ = lightning_fed("audit", "verify", "store")
    assert code == 0
    assert "all 4 lines hold" in out
    assert "lines 1 to 2 are of an older version: not chained, and as they were when line 3 came" in out
    assert f"lines 3 to 4 are of run ab12 at its coordinator, signed by the key {public(HUB)}" in out
    assert "only the other side's log can show" in out


def test_a_log_that_no_key_signs_is_said_to_be_so(lightning_fed, tmp_path):
    events_of(tmp_path / "store", key=None).close()
    code, out, _ = lightning_fed("audit", "verify", "store")
    assert code == 0
    assert "not signed by anybody" in out


def test_an_empty_log_shows_nothing_and_does_not_hold(lightning_fed, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "events.jsonl").touch()
    code, out, _ = lightning_fed("audit", "verify", "store")
    assert code == 1
    assert "holds no line of a log" in out


def test_a_line_that_is_being_written_is_no_fault(lightning_fed, tmp_path):
    log = events_of(tmp_path / "store")
    with (tmp_path / "store" / "events.jsonl").open("ab") as file:
        file.write(b'{"time"')
    code, out, _ = lightning_fed("audit", "verify", "store")
    log.close()
    assert code == 0
    assert "7 bytes at its end are no whole line" in out


def test_a_roster_tells_whose_key_it_is(lightning_fed, tmp_path):
    Roster.of(HUB.card, [NORTH.card]).write(tmp_path / "roster.yaml")
    events_of(tmp_path / "store").close()
    holder_of(tmp_path / "north", NORTH)
    holder_of(tmp_path / "south", SOUTH)
    assert (
        lightning_fed("audit", "verify", "store", "north/ledgers/north.jsonl.sent", "--roster", "roster.yaml")[0] == 1
    )
    assert lightning_fed("audit", "verify", "store", "--roster", "roster.yaml")[0] == 0
    assert lightning_fed("audit", "verify", "north", "--roster", "roster.yaml")[0] == 0
    code, out, _ = lightning_fed("audit", "verify", "south", "--roster", "roster.yaml")
    assert code == 1
    assert "line 1 does not hold: it begins a chain of site 'south', which the roster does not name" in out
    Roster.of(HUB.card, [PublicCard("south", NORTH.card.curve_public, NORTH.card.signing_public)]).write(
        tmp_path / "other.yaml"
    )
    code, out, _ = lightning_fed("audit", "verify", "south", "--roster", "other.yaml")
    assert code == 1
    assert f"line 1 does not hold: it begins a chain with the key {public(SOUTH)}, not the roster's" in out


def test_a_site_that_has_left_is_known_by_an_older_roster(lightning_fed, tmp_path):
    Roster.of(HUB.card, [NORTH.card, SOUTH.card]).write(tmp_path / "before.yaml")
    Roster.of(HUB.card, [NORTH.card]).write(tmp_path / "roster.yaml")
    for site in (NORTH, SOUTH):
        holder_of(tmp_path / site.name, site)
    for site in ("north", "south"):
        arguments = ("audit", "verify", site, "--roster", "roster.yaml", "--roster", "before.yaml")
        assert lightning_fed(*arguments)[0] == 0


def test_a_log_without_any_chain_is_not_that_of_a_rosters_member(lightning_fed, tmp_path):
    Roster.of(HUB.card, [NORTH.card]).write(tmp_path / "roster.yaml")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "events.jsonl").write_bytes(OLD)
    code, out, _ = lightning_fed("audit", "verify", "store", "--roster", "roster.yaml")
    assert code == 1
    assert "line 1 does not hold: it is signed by nobody" in out


def test_a_coordinator_that_shows_two_sites_two_logs_is_found_by_theirs_alone(lightning_fed, tmp_path):
    heads = []
    for store in ("one", "other"):
        log = events_of(tmp_path / store)
        log.write("round_finished", {"round": 1})
        heads.append(log.head)
        log.close()
    holder_of(tmp_path / "north", NORTH, heads[0])
    holder_of(tmp_path / "south", SOUTH, heads[1])
    assert lightning_fed("audit", "verify", "north")[0] == 0
    code, out, _ = lightning_fed("audit", "verify", "north", "south")
    assert code == 1
    assert "south.jsonl.sent: line 2 does not hold: it holds another head of line 2 of the coordinator's log" in out
    assert "its writer has signed both" in out


def test_what_is_said_in_a_log_does_not_reach_the_terminal_as_it_was_said(lightning_fed, tmp_path):
    (tmp_path / "ledgers").mkdir()
    log = AuditLog(tmp_path / "ledgers" / "x.sent", Writer(Name("site", "north\x1b[2J"), NORTH.signing_key))
    log.append("sent", {"message": "Hello", "bytes": "many"})
    log.append("sent", {"message": "Hello\x1b[2J\nleft", "bytes": 1, "sha256": "\x1b"})
    log.close()
    for command in ("verify", "show"):
        out = lightning_fed("audit", command, str(tmp_path))[1]
        assert "\x1b" not in out
        assert "\\x1b[2J" in out


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_folder_without_a_log_is_told_in_a_line(lightning_fed, tmp_path, command):
    code, _, err = lightning_fed("audit", command, ".")
    assert code == 1
    assert "holds no audit log" in err
    code, _, err = lightning_fed("audit", command, "away")
    assert code == 1
    assert "cannot be read: No such file or directory" in err
