import dataclasses

import numpy as np
import pytest

from lightning_fed.radiology.synthetic.anatomy import Wrist, bone_absorbance, random_wrist
from lightning_fed.radiology.synthetic.exposure import exposed, pixel_spacing_mm
from lightning_fed.radiology.synthetic.fractures import FRACTURE_KINDS, Fracture, random_fracture
from lightning_fed.radiology.synthetic.style import default_sites

STYLE = default_sites(1)[0]


def displaced(kind):
    """Return a fracture of the usual displacement: not one of the barely visible ones."""
    middle = {
        "I": Fracture("I", 1, 0.0, 0.0, 4.0, 1.2, 4.0, 1.0),
        "II": Fracture("II", 1, 10.0, 0.0, 3.0, 0.7, 4.0, 1.0),
        "III": Fracture("III", 1, 2.0, 0.0, 1.7, 0.5, 2.0, 1.5),
        "IV": Fracture("IV", 1, 11.0, 0.0, 1.7, -1.4, 2.0, 1.5),
        "torus": Fracture("torus", 1, 14.0, 0.0, 2.6, 0.0, 0.0, 1.0),
        "metaphyseal": Fracture("metaphyseal", 1, 15.0, 0.1, 3.5, 0.0, 5.0, 1.0),
    }
    return middle[kind]


def grid(spacing=0.5):
    y, x = np.mgrid[35:-45:-spacing, -35:35:spacing].astype(np.float32)
    return x, y


def picture(fracture, *, style=STYLE, view="AP", age=11.0, seed=0):
    return exposed(
        style,
        random_wrist(age, False, np.random.default_rng(seed)),
        view,
        left=False,
        cast=False,
        fracture=fracture,
        random=np.random.default_rng(seed + 1),
    )


@pytest.mark.parametrize("kind", FRACTURE_KINDS)
@pytest.mark.parametrize("style", default_sites(4), ids=lambda style: style.name)
def test_fracture_changes_the_radius_around_it_and_nothing_else(kind, style):
    without, with_ = picture(None, style=style), picture(displaced(kind), style=style)
    change = np.abs(with_ - without)
    assert change.max() > 0.1
    # More than a speck: an area of at least 8 square millimetres of a child's bone is clearly different.
    spacing = pixel_spacing_mm(style, random_wrist(11.0, False, np.random.default_rng(0)))
    assert (change > 0.04).sum() * spacing**2 > 8
    assert (change > 0.01).mean() < 0.25
    # The carpus, the end of the shafts and the ulna.
    assert change[: style.rows // 6].max() < 0.01
    assert change[-style.rows // 12 :].max() < 0.01
    assert change[:, -style.columns // 6 :].max() < 0.01


@pytest.mark.parametrize("kind", FRACTURE_KINDS)
def test_fracture_stays_within_its_part_of_the_bone(kind):
    x, y = grid()
    wrist = Wrist(age_years=11.0, female=False)
    change = np.abs(bone_absorbance(wrist, "AP", x, y, displaced(kind)) - bone_absorbance(wrist, "AP", x, y))
    changed = change > 0.02
    lowest, highest = y[changed].min(), y[changed].max()
    # mm from the growth plate, with room for how far the fragment has moved.
    limits = {
        "I": (-5, 16),
        "II": (-16, 16),
        "III": (-2, 16),
        "IV": (-18, 16),
        "torus": (-21, -7),
        "metaphyseal": (-25, 16),
    }
    assert limits[kind][0] < lowest < highest < limits[kind][1]
    assert {"I": 2, "II": -4, "III": 2, "IV": -4, "torus": -14, "metaphyseal": -14}[kind] > lowest


def test_epiphyseal_types_split_the_epiphysis_and_only_II_and_IV_take_the_metaphysis_along():
    x, y = grid()
    inside = {kind: displaced(kind).inside(x, y) > 0 for kind in ("I", "II", "III", "IV")}
    epiphysis = (y > 1) & (y < 8) & (np.abs(x) < 10)
    metaphysis = (y < -1) & (y > -8) & (np.abs(x) < 10)
    assert [inside[kind][epiphysis].all() for kind in inside] == [True, True, False, False]
    assert [inside[kind][epiphysis].any() for kind in inside] == [True, True, True, True]
    assert [inside[kind][metaphysis].any() for kind in inside] == [False, True, False, True]


def test_fragment_that_has_not_moved_and_has_no_gap_leaves_the_bone_whole():
    x, y = grid()
    wrist = Wrist(age_years=11.0, female=False)
    whole = bone_absorbance(wrist, "AP", x, y)
    for kind in ("I", "II", "III", "IV", "metaphyseal"):
        still = dataclasses.replace(displaced(kind), shift=0.0, lift=0.0, angle_deg=0.0, gap=0.0)
        assert np.abs(bone_absorbance(wrist, "AP", x, y, still) - whole).max() < 1e-5


def test_carpal_bones_appear_and_growth_plates_close_with_age():
    x, y = grid()
    carpus = (y > 12) & (y < 30)
    plate = (np.abs(y - 0.9) < 0.4) & (np.abs(x + 5.5) < 4)
    areas, plates = [], []
    for age in (2, 5, 8, 12, 17):
        bone = bone_absorbance(Wrist(age_years=age, female=False), "AP", x, y)
        areas.append((bone[carpus] > 0.1).mean())
        plates.append(bone[plate].mean())
    assert areas == sorted(areas) and areas[0] < 0.5 * areas[-1]
    assert max(plates[:4]) < 0.12 < 0.25 < plates[4]
    assert Wrist(age_years=14.5, female=True).closure > Wrist(age_years=14.5, female=False).closure


def test_left_wrist_is_the_mirror_image_of_a_right_one():
    style = dataclasses.replace(STYLE, marker="none", noise=0.0, blur_mm=0.0)
    wrist = Wrist(age_years=10.0, female=True)
    sides = [
        exposed(style, wrist, "AP", left=left, cast=False, fracture=None, random=np.random.default_rng(2))
        for left in (False, True)
    ]
    mirrored = np.corrcoef(sides[0].ravel(), sides[1][:, ::-1].ravel())[0, 1]
    same = np.corrcoef(sides[0].ravel(), sides[1].ravel())[0, 1]
    assert mirrored > 0.8 > same + 0.1


def test_a_fifth_of_the_fractures_is_hardly_displaced():
    random = np.random.default_rng(0)
    shifts = np.array([random_fracture("metaphyseal", random).shift for _ in range(500)])
    assert 0.1 < (shifts < 1.5).mean() < 0.3
    assert shifts.min() > 0
