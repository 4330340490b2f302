"""What is asked of the sites in every round is known without asking each of them."""

from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.protocol.coordinator.attendance import Attendance

NAMES = ["a", "b", "c", "d"]
ROSTERS = [None, b"first", b"second"]

site, roster = st.sampled_from(NAMES), st.sampled_from([b"first", b"second"])
changes = st.one_of(
    st.tuples(st.just("greeted"), site),
    st.tuples(st.just("joined"), site, st.just({}), roster),
    st.tuples(st.just("stand_by"), site.map(lambda name: [name]), roster),
    st.tuples(st.just("lost"), site),
    st.tuples(st.just("left"), site, st.sampled_from(["done", "failed"])),
    st.tuples(st.just("dropped"), site),
    st.tuples(st.just("admitted"), site),
    st.tuples(st.just("takes_roster"), site, roster),
    st.tuples(
        st.just("settle"), st.just(1), site.map(lambda name: {name: "caught"}), st.just({}), st.just(1), st.just(False)
    ),
    st.tuples(st.just("completed")),
    st.tuples(st.just("roster"), st.sampled_from(ROSTERS)),
    st.tuples(st.just("away and back"), site),
)


@given(st.lists(changes, max_size=30), st.sets(site), st.sets(site))
def test_the_groups_are_what_a_walk_over_all_sites_finds(done, members, dropped):
    attendance = Attendance(NAMES, 3, members, dropped)
    for what, *arguments in done:
        if what == "roster":
            (attendance.roster,) = arguments
        elif what == "away and back":
            attendance.remove(*arguments)
            attendance.admit(arguments)
        else:
            getattr(attendance, what)(*arguments)
    sites = attendance._sites
    there = {name for name, one in sites.items() if one.ready or one.standing_by}
    fits = {name for name, one in sites.items() if attendance.roster in (None, one.members)}
    out = {name for name, one in sites.items() if one.rounds_out}
    left = {name for name, one in sites.items() if one.left}
    assert list(attendance) == NAMES
    assert attendance.ready == [name for name in NAMES if attendance.is_ready(name)]
    assert attendance.members == [name for name in NAMES if sites[name].member]
    assert attendance.drawable == (there & fits) - out
    assert attendance.outdated == [name for name in attendance.ready if name not in fits]
    assert attendance.missing == set(NAMES) - there - left - out
    assert attendance.gone({"done", "failed", "refused"}).keys() == left
    assert attendance.left_out.keys() == out
