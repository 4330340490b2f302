"""The attacks of `benchmarks/leakage.py`: they get what is unprotected, and nothing of what is protected."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "leakage.md"

# The mean of other patients' wrists has about 19 dB: below it, the message is worth less than none.
RECOGNISABLE_DB, WORTHLESS_DB = 28.0, 14.0


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    path = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path[:] = path


@pytest.fixture(scope="module")
def attack(benchmarks):
    import gradient_inversion

    return gradient_inversion


@pytest.fixture(scope="module")
def victim(benchmarks):
    import leakage_victim

    return leakage_victim


@pytest.fixture(scope="module")
def cohort(attack, victim):
    return victim.radiographs(attack.COHORT, seed=7)


def best_picture(attack, victim, cohort, kind, model=None):
    """The best picture of any image that may be in the message."""
    images, labels = cohort
    pictures = attack.recovered(attack.messages(model or victim.Classifier())[kind](images, labels))
    targets = images if "sum" in kind else images[:1]
    return max((attack.best_of(pictures, image) for image in targets), key=lambda result: result.psnr)


@pytest.mark.parametrize("kind", ["plain", "clipped"])
def test_the_image_can_be_read_off_an_update_without_masks_and_noise(attack, victim, cohort, kind):
    best = best_picture(attack, victim, cohort, kind)
    assert best.psnr > 60
    assert best.ssim > 0.99


@pytest.mark.parametrize("kind", ["masked", "DP, epsilon 8", "DP, epsilon 1", "opened sum, DP, epsilon 8"])
@pytest.mark.parametrize("chosen", [False, True])
def test_no_image_can_be_read_off_masked_words_or_a_private_update(attack, victim, cohort, kind, chosen):
    model = victim.crafted(victim.radiographs(100, seed=1000)[0]) if chosen else victim.Classifier()
    best = best_picture(attack, victim, cohort, kind, model)
    assert best.psnr < WORTHLESS_DB
    assert best.ssim < 0.2


def test_masks_alone_do_not_keep_images_from_who_chooses_the_model_and_opens_the_sum(attack, victim, cohort):
    images, labels = cohort
    model = victim.crafted(victim.radiographs(100, seed=1000)[0])
    pictures = attack.recovered(attack.messages(model)["opened sum"](images, labels))
    found = [attack.best_of(pictures, image).psnr > RECOGNISABLE_DB for image in images]
    assert sum(found) >= attack.COHORT // 2


@pytest.mark.parametrize(
    ("kind", "found"),
    [("plain", True), ("clipped", True), ("masked", False), ("DP, epsilon 8", False), ("DP, epsilon 1", False)],
)
def test_a_search_finds_the_image_behind_a_convolutional_networks_update_only_without_protection(
    attack, victim, cohort, kind, found
):
    images, labels = cohort
    model = victim.Convolutional()
    message = attack.messages(model)[kind](images, labels)
    best = attack.best_of(attack.searched(message, model, labels[:1], steps=1000), images[0])
    assert best.psnr > RECOGNISABLE_DB if found else best.psnr < WORTHLESS_DB


def test_an_image_is_picked_from_a_list_by_its_plain_update_and_not_by_a_masked_or_strongly_private_one(attack, victim):
    def picks(kind):
        return attack.identified(victim.Classifier(), kind, trials=20, candidates=50, seed=50)

    assert picks("plain") == 20
    # By chance 1 in 50: eight or more of twenty happen once in 10^8 runs.
    assert picks("masked") < 8
    assert picks("DP, epsilon 1") < 8


def test_an_update_that_was_clipped_like_an_example_is_what_the_callback_makes_without_noise(attack, victim, cohort):
    # Else the list attack would look for the wrong thing, and its failure would show nothing.
    images, labels = cohort
    model = victim.Classifier()
    expected = attack.expected_updates(model, images[:1], labels[:1], victim.LEARNING_RATE * victim.CLIPPING_NORM)[0]
    updates = [victim.update_of(model, images[:1], labels[:1], epsilon=8.0) for _ in range(60)]
    residual = torch.from_numpy(np.mean(updates, axis=0)) - expected
    noise = victim.LEARNING_RATE * victim.noise_for(8.0, 1.0, 1) / 60**0.5
    # Noise in P coordinates has this norm within a few per cent; what is missing along the signal is one coordinate.
    assert float(residual.norm()) == pytest.approx(noise * residual.numel() ** 0.5, rel=0.05)
    assert abs(float(residual @ expected / expected.norm())) < 5 * noise


def test_a_masked_round_of_the_benchmark_opens_the_sum_of_the_updates(attack, victim, cohort):
    images, labels = cohort
    model = victim.Classifier()
    updates = [victim.update_of(model, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
    received, opened = victim.masked_round(updates)
    code = victim.contribution_for(updates)
    assert np.abs(opened - np.sum(updates, axis=0)).max() <= len(updates) * code.code(0).step
    assert not np.array_equal(received[0], code.encode(updates[0], {"examples": 1.0}))


@pytest.mark.slow
def test_who_was_trained_on_is_told_from_a_model_that_learnt_by_heart_and_not_from_one_of_epsilon_1(benchmarks):
    import membership_inference as membership

    def attacked(epsilon):
        trained = membership.train_all(16, epsilon, seed=3)
        return membership.evaluated(membership.likelihood_ratios(trained), trained.members, draws=200)

    plain, private = attacked(None), attacked(1.0)
    assert plain.auc_interval[0] > 0.8
    assert plain.found_interval[0] > 0.03
    assert private.auc_interval[1] < 0.65
    assert private.auc_interval[0] < 0.54


def test_the_interval_of_an_attack_that_guesses_holds_one_half_and_that_of_one_that_knows_does_not(benchmarks):
    import membership_inference as membership

    random = np.random.default_rng(1)
    members = random.random((20, 80)) < 0.5
    guess = membership.evaluated(random.normal(size=members.shape), members, draws=100)
    assert guess.auc_interval[0] < 0.5 < guess.auc_interval[1]
    knows = membership.evaluated(members + 0.5 * random.normal(size=members.shape), members, draws=100)
    assert knows.auc_interval[0] > 0.85
    assert knows.found > 0.3


def test_the_page_shows_pictures_that_are_there_and_every_message_of_the_benchmark(attack, victim):
    page = PAGE.read_text()
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
    assert len(pictures) == 2
    assert all((PAGE.parent / picture).is_file() for picture in pictures)
    for kind in attack.messages(victim.Classifier()):
        assert page.count(f"\n| {kind} |") >= 2
