from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from public_layouts import graz, write_fracatlas, write_mura

from lightning_fed.errors import DataError
from lightning_fed.radiology import Radiograph, RadiographDataModule, split_radiographs
from lightning_fed.radiology.sites import radiographs_at, share_of_patients

SIDES = ("train", "val", "test")
ROWS = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 1), st.sampled_from(["siemens", "agfa", "ge"])), max_size=80
)


def rows(table):
    return [
        Radiograph(Path(f"{number}.png"), f"p{patient}", fracture, 0, None, site)
        for number, (patient, fracture, site) in enumerate(table)
    ]


def module(root, **options):
    return RadiographDataModule(str(root), image_size=16, augment=False, **options)


def paths(data, side):
    return {row.path for row in data.dataset(side).radiographs}


def patients(data, *sides):
    return {row.patient_id for side in sides for row in data.dataset(side).radiographs}


@given(ROWS, st.integers(1, 5), st.integers(0, 9))
def test_shares_of_all_sites_are_disjoint_and_complete_on_every_side(table, count, seed):
    everything = rows(table)
    sides = split_radiographs(everything, val_fraction=0.2, test_fraction=0.2, seed=seed)
    parts = [
        radiographs_at(share_of_patients(sides, (which, count), seed=seed), site, all_rows=everything)
        for site in {row.site for row in everything}
        for which in range(1, count + 1)
    ]
    for side in SIDES:
        members = [row.path for part in parts for row in part[side]]
        assert sorted(members) == sorted(row.path for row in sides[side])


@given(ROWS, st.integers(1, 5), st.integers(0, 9))
def test_shares_differ_by_at_most_one_patient_on_a_side_and_share_none(table, count, seed):
    sides = split_radiographs(rows(table), val_fraction=0.2, test_fraction=0.2, seed=seed)
    shares = [share_of_patients(sides, (which, count), seed=seed) for which in range(1, count + 1)]
    for side in SIDES:
        members = [{row.patient_id for row in share[side]} for share in shares]
        assert max(map(len, members)) - min(map(len, members)) <= 1
        assert sum(map(len, members)) == len(set.union(*members))


@given(ROWS, st.integers(0, 9))
def test_patient_at_two_sites_is_on_the_same_side_at_both(table, seed):
    sides = split_radiographs(rows(table), val_fraction=0.2, test_fraction=0.2, seed=seed)
    members = [{row.patient_id for row in sides[side]} for side in SIDES]
    assert sum(map(len, members)) == len(set.union(*members))


@given(st.integers(3, 20), st.integers(3, 20), st.integers(0, 9))
def test_every_site_with_three_patients_has_each_side(first, second, seed):
    table = [(number, number % 2, "siemens" if number < first else "agfa") for number in range(first + second)]
    everything = rows(table)
    sides = split_radiographs(everything, val_fraction=0.15, test_fraction=0.15, seed=seed)
    for site in ("siemens", "agfa"):
        assert all(radiographs_at(sides, site, all_rows=everything).values())


def test_manufacturers_of_grazpedwri_are_disjoint_complete_and_share_no_patient_across_sides(tmp_path):
    root = graz(tmp_path)
    options = {"layout": "grazpedwri", "site_by": "device_manufacturer"}
    together = module(root, **options)
    sites = [module(root, site="Siemens", share=(which, 3), **options) for which in (1, 2, 3)]
    sites.append(module(root, site="Agfa", **options))
    for side in SIDES:
        assert sum(len(paths(site, side)) for site in sites) == len(paths(together, side))
        assert set.union(*(paths(site, side) for site in sites)) == paths(together, side)
    assert sum(len(paths(together, side)) for side in SIDES) == 104
    trained = set.union(*(patients(site, "train") for site in sites))
    held_out = set.union(*(patients(site, "val", "test") for site in sites))
    assert not trained & held_out
    assert all(len(paths(site, side)) > 0 for site in sites for side in SIDES)


@pytest.mark.parametrize(
    ("write", "layout"), [(graz, "grazpedwri"), (write_fracatlas, "fracatlas"), (write_mura, "mura")]
)
def test_sides_of_every_public_layout_share_no_patient(tmp_path, write, layout):
    data = module(write(tmp_path), layout=layout)
    members = [patients(data, side) for side in SIDES]
    assert all(members)
    assert sum(map(len, members)) == len(set.union(*members))


def test_mura_wrists_are_trained_on_without_other_body_parts_and_tested_on_the_part_valid(tmp_path):
    options = {"layout": "mura", "site_by": "body_part", "site": "XR_WRIST", "test_fraction": 0}
    write_mura(tmp_path)
    together, shares = module(tmp_path, **options), [module(tmp_path, share=(n, 4), **options) for n in range(1, 5)]
    assert {path.parts[-4] for side in SIDES for path in paths(together, side)} == {"XR_WRIST"}
    assert patients(together, "test") == {f"patient{number:05d}" for number in range(30, 41)}
    assert set.union(*(patients(share, "test") for share in shares)) == patients(together, "test")


def test_manufacturer_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    data = module(graz(tmp_path), layout="grazpedwri", site_by="device_manufacturer", site="Philips")
    with pytest.raises(DataError, match=r"site = 'Philips' does not occur.*siemens \(76 images\), agfa \(28 images\)"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layout": "nih"}, "layout = 'nih' is unknown; allowed are table, grazpedwri, fracatlas, mura"),
        ({"site": "north"}, "site = 'north' is given without site_by"),
        ({"share": (0, 4)}, r"share = \[0, 4\] is none"),
        ({"share": (5, 4)}, r"share = \[5, 4\] is none"),
    ],
)
def test_impossible_divisions_are_refused(options, text):
    with pytest.raises(DataError, match=text):
        RadiographDataModule("folder", **options)


def test_share_too_small_for_a_patient_is_refused(tmp_path):
    data = module(write_fracatlas(tmp_path, images=4), layout="fracatlas", share=(9, 9))
    with pytest.raises(DataError, match="the train side holds no radiographs"):
        data.setup("fit")
