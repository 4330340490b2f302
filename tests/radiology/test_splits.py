from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import DataError
from lightning_fed.radiology import Radiograph, split_patients, split_radiographs

FRACTIONS = st.floats(0, 0.45)
TABLES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), max_size=80)


def rows(table, split=None):
    return [
        Radiograph(Path(f"{number}.dcm"), f"p{patient}", fracture, 0, split)
        for number, (patient, fracture) in enumerate(table)
    ]


@given(TABLES, FRACTIONS, FRACTIONS, st.integers(0, 2**32))
def test_no_patient_is_on_two_sides_and_no_radiograph_is_lost(table, val, test, seed):
    radiographs = rows(table)
    sides = split_radiographs(radiographs, val_fraction=val, test_fraction=test, seed=seed)
    patients = {side: {row.patient_id for row in members} for side, members in sides.items()}
    assert not patients["train"] & patients["val"]
    assert not patients["train"] & patients["test"]
    assert not patients["val"] & patients["test"]
    assert sorted((row.path for members in sides.values() for row in members), key=str) == sorted(
        (row.path for row in radiographs), key=str
    )


@given(TABLES, st.randoms(use_true_random=False), st.integers(0, 9))
def test_split_does_not_depend_on_the_order_of_the_rows(table, random, seed):
    radiographs = rows(table)
    shuffled = radiographs[:]
    random.shuffle(shuffled)
    fractions = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": seed}
    first, second = split_radiographs(radiographs, **fractions), split_radiographs(shuffled, **fractions)
    assert {side: set(members) for side, members in first.items()} == {
        side: set(members) for side, members in second.items()
    }


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.integers(0, 9))
def test_sizes_and_fracture_shares_follow_the_fractions_within_whole_patients(fractured, normal, val, test, seed):
    patients = {f"p{number}": number < fractured for number in range(fractured + normal)}
    sides = split_patients(patients, val_fraction=val, test_fraction=test, seed=seed)
    chosen = [patient for patient, side in sides.items() if side == "test"]
    if len(patients) >= 3:
        assert abs(len(chosen) - test * len(patients)) <= 1
        assert list(sides.values()).count("train") >= 1
    expected = len(chosen) * fractured / len(patients)
    assert abs(sum(patients[patient] for patient in chosen) - expected) <= 1


@given(st.integers(3, 40), st.integers(0, 9))
def test_three_patients_or_more_reach_every_side_with_a_positive_fraction(count, seed):
    patients = {f"p{number}": False for number in range(count)}
    sides = split_patients(patients, val_fraction=0.05, test_fraction=0.05, seed=seed)
    assert set(sides.values()) == {"train", "val", "test"}


def test_split_is_the_same_in_every_process_and_release():
    sides = split_patients(
        {f"p{number}": number % 2 == 0 for number in range(8)}, val_fraction=0.25, test_fraction=0.25
    )
    assert {side: sorted(p for p in sides if sides[p] == side) for side in ("val", "test")} == {
        "val": ["p4", "p5"],
        "test": ["p0", "p3"],
    }


def test_another_seed_gives_another_split():
    patients = {f"p{number}": False for number in range(50)}
    first, second = (split_patients(patients, val_fraction=0.2, test_fraction=0.2, seed=seed) for seed in (0, 1))
    assert first != second


def test_sides_of_the_table_win_over_the_fractions():
    sides = split_radiographs(rows([(0, 1), (1, 0)], split="test"), val_fraction=0.3, test_fraction=0)
    assert [len(sides[side]) for side in ("train", "val", "test")] == [0, 0, 2]


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0), (0, 1), (float("nan"), 0), (0.5, 0.5)])
def test_fractions_that_leave_no_training_patients_are_refused(val, test):
    with pytest.raises(DataError, match="fraction"):
        split_patients({"p": True}, val_fraction=val, test_fraction=test)
