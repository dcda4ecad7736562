"""The counter-based generator: known answers, purity, and the statistics of what it draws."""

import pytest
import torch

from vitrail.augment import cpu
from vitrail.augment.random import Draw, _constants, alternating, philox, uniform

# Random123 1.14, kat_vectors, philox4x32 10: counter, key (low word first), output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0_A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
NUM_EXAMPLES = 40_000
FIVE_SIGMA = 5.0
GOLDEN = [
    [11117376, 4879069, 4364209, 729033],
    [6062031, 9659823, 11288721, 4848079],
    [6703449, 13856382, 15793043, 12096465],
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: tuple[int, ...], key: int, expected: tuple[int, ...]) -> None:
    assert philox(torch.tensor(counter).view(4, 1, 1), key).flatten().tolist() == list(expected)


def test_philox_of_a_cpu_is_the_plain_one() -> None:
    words = torch.randint(0, 1 << 32, (4, 50, 13), generator=torch.Generator().manual_seed(0))
    for key in (0, 7, 0xFFFFFFFFFFFFFFFF):
        assert torch.equal(cpu.philox(words, *_constants(key, words.device)), philox(words, key))


def test_golden_values() -> None:
    """A change here changes the augmentation of every run."""
    ids = torch.tensor([0, 1, 49_999, 2**40 + 3])
    numbers = uniform(7, 3, ids, [Draw.FLIP, Draw.HUE, Draw.POLICY])
    words = (numbers * 2**24).long().tolist()
    assert words == GOLDEN


def test_alternating_numbers_are_on_both_sides_of_a_half() -> None:
    """In two epochs in a row; the first is that of `uniform`, and the pair is never drawn anew."""
    ids = torch.arange(NUM_EXAMPLES)
    first, second, third, last = (alternating(7, epoch, ids, Draw.FLIP) for epoch in (0, 1, 2, 2**31 + 1))
    assert torch.equal(first, uniform(7, 0, ids, [Draw.FLIP])[0])
    assert torch.equal(first < 0.5, second >= 0.5)
    assert torch.equal(first, third)
    assert torch.equal(second, last)
    assert second.min() >= 0
    assert second.max() < 1
    assert torch.equal((first + second).double(), torch.full((NUM_EXAMPLES,), 1 - 2.0**-24, dtype=torch.float64))
    assert (alternating(8, 0, ids, Draw.FLIP) != first).float().mean() > 0.99


def test_numbers_depend_on_seed_epoch_id_and_draw() -> None:
    ids = torch.arange(1000)
    reference = uniform(0, 0, ids, [0])
    for other in (
        uniform(1, 0, ids, [0]),
        uniform(1 << 32, 0, ids, [0]),
        uniform(0, 1, ids, [0]),
        uniform(0, 0, ids + 1000, [0]),
        uniform(0, 0, ids + (1 << 32), [0]),
        uniform(0, 0, ids, [1]),
        uniform(0, 0, ids, [4]),
    ):
        assert (reference != other).float().mean() > 0.99


def test_batch_order_and_company_do_not_matter() -> None:
    ids = torch.arange(50)
    whole = uniform(0, 5, ids, [0, 3, 9])
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(0, 5, ids[order], [0, 3, 9]), whole[:, order])
    assert torch.equal(uniform(0, 5, ids[10:13], [9, 0]), whole[[2, 0], 10:13])


@pytest.mark.parametrize(("seed", "epoch", "draw"), [(0, 0, 0), (1, 7, 3), (123, 50, 33)])
def test_numbers_are_uniform(seed: int, epoch: int, draw: int) -> None:
    numbers = uniform(seed, epoch, torch.arange(NUM_EXAMPLES), [draw])[0]
    assert 0 <= numbers.min() and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < FIVE_SIGMA * (1 / 12 / NUM_EXAMPLES) ** 0.5
    counts = torch.histc(numbers, bins=64, min=0, max=1)
    chi_square = ((counts - NUM_EXAMPLES / 64) ** 2 / (NUM_EXAMPLES / 64)).sum()
    assert abs(chi_square - 63) < FIVE_SIGMA * (2 * 63) ** 0.5


def test_numbers_are_uncorrelated() -> None:
    """Between draws, epochs, seeds and neighbouring ids: no correlation beyond five standard deviations."""
    ids = torch.arange(NUM_EXAMPLES)
    rows = torch.cat(
        [uniform(seed, epoch, ids, range(6)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
        + [uniform(0, 0, ids + 1, [0])]
    )
    correlation = torch.corrcoef(rows.double()) - torch.eye(len(rows))
    assert correlation.abs().max() < FIVE_SIGMA / NUM_EXAMPLES**0.5
