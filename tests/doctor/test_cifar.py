"""The doctor on CIFAR-10 with planted faults, as bench/doctor_cifar.py measures it."""

import pytest

from bench import doctor_cifar
from vitrail import data

needs_cifar = pytest.mark.skipif(data.place_of("cifar10") is None, reason="needs CIFAR-10")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_cifar
def test_planted_copies() -> None:
    found = doctor_cifar.planted()
    assert found["equal_found"] == found["equal"]
    assert found["near_recall"] >= 0.95
    # The others are near duplicates that CIFAR-10 has of its own: 18 of the first 200, all of them right by eye.
    assert found["planted_among_first_200"] >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_cifar
def test_flipped_labels_with_the_shipped_features() -> None:
    assert doctor_cifar.flipped(doctor_cifar.MODEL, None)["average_precision"] >= 0.5
