"""Random numbers that are a pure function of (seed, epoch, example id, draw number).

In: the run's seed, the epoch, the ids of a batch, and which draws are wanted. Out: floats in [0, 1) on the ids' device.
No state is kept, so an example's augmentation does not depend on its batch, its place in it, the number of processes,
or on what was drawn before. The generator is Philox4x32-10 in int64 arithmetic, bit-identical on every device.

Paper: "Parallel random numbers: as easy as 1, 2, 3" (Salmon et al., SC 2011, doi 10.1145/2063384.2063405)
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitrail.augment import cpu

_MASK = 0xFFFFFFFF
_NUM_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


class Draw(IntEnum):
    """Which number an example uses for what. Fixed: switching one option on leaves the draws of the others alone."""

    FLIP = 0
    CROP_X = 1
    CROP_Y = 2
    ROTATION = 3
    BRIGHTNESS = 4
    CONTRAST = 5
    SATURATION = 6
    HUE = 7
    TRANSLATE_X = 8
    TRANSLATE_Y = 9
    SCALE = 10
    SHEAR = 11
    RESIZED_AREA = 12
    RESIZED_ASPECT = 13
    RESIZED_X = 14
    RESIZED_Y = 15
    ERASE = 16
    ERASE_AREA = 17
    ERASE_ASPECT = 18
    ERASE_X = 19
    ERASE_Y = 20
    POLICY = 32
    """First of the policy: four numbers for each operation slot."""
    MASK = 1024
    """First of the mask: a number for each square of patches."""


@lru_cache(maxsize=16)
def _constants(seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Multipliers [2, 1, 1] and round keys [rounds, 2, 1, 1]; cached, because building them copies to the device."""
    key = (seed & _MASK, (seed >> 32) & _MASK)
    keys = [[(k + r * step) & _MASK for k, step in zip(key, _KEY_STEPS, strict=True)] for r in range(_NUM_ROUNDS)]
    # As signed 32-bit numbers, so that no product leaves int64; `philox` adds 2**32 * word to the high half.
    multipliers = torch.tensor([m - (1 << 32) for m in _MULTIPLIERS], device=device)
    return multipliers.view(2, 1, 1), torch.tensor(keys, device=device).view(_NUM_ROUNDS, 2, 1, 1)


def philox(counter: Int64[Tensor, "4 B n"], seed: int) -> Int64[Tensor, "4 B n"]:
    """Encrypt 128-bit counters, four words in [0, 2**32) each, with a 64-bit key.

    Source: Salmon et al. 2011, section 3.3; known answers of Random123 1.14, `kat_vectors`.
    """
    multipliers, keys = _constants(seed, counter.device)
    even, odd = counter[0::2], counter[1::2]
    for round_key in keys.unbind(0):
        product = even * multipliers
        high = ((product >> 32).add_(even)).bitwise_and_(_MASK)
        even = high.flip(0).bitwise_xor_(odd).bitwise_xor_(round_key)
        odd = product.bitwise_and_(_MASK).flip(0)
    return torch.stack((even[0], odd[0], even[1], odd[1]))


def uniform(seed: int, epoch: int, ids: Int64[Tensor, "B"], draws: Sequence[int]) -> Float[Tensor, "n B"]:
    """Draw numbers in [0, 1), one row a draw number, one column an example; 24 random bits each, float32.

    Args:
        seed: of the run; its low 64 bits count.
        epoch: its low 32 bits count.
        ids: stable example ids; 64 bits count.
        draws: non-negative draw numbers (`Draw`), any order.
    """
    blocks = sorted({int(draw) // 4 for draw in draws})
    block_of = {block: position for position, block in enumerate(blocks)}
    counter = torch.empty(4, len(ids), len(blocks), dtype=torch.int64, device=ids.device)
    counter[0] = (ids & _MASK).unsqueeze(1)
    counter[1] = ((ids >> 32) & _MASK).unsqueeze(1)
    for block, position in block_of.items():
        counter[2, :, position] = block
    counter[3] = epoch & _MASK
    on_cpu = counter.device.type == "cpu"
    words = cpu.philox(counter, *_constants(seed, counter.device)) if on_cpu else philox(counter, seed)
    rows = torch.stack([words[int(draw) % 4, :, block_of[int(draw) // 4]] for draw in draws])
    return (rows >> 8).to(torch.float32).mul_(2.0**-24)


def alternating(seed: int, epoch: int, ids: Int64[Tensor, "B"], draw: int) -> Float[Tensor, "B"]:
    """The number of epoch 0 in even epochs, 1 - 2**-24 less that number in odd ones; each in [0, 1).

    So of two epochs in a row exactly one is below a half, and over the examples each epoch is uniform.

    Args:
        seed, ids, draw: as of `uniform`.
        epoch: counted from 0; whether it is odd counts.
    Source: arXiv:2404.00498, section 3.6; KellerJordan/cifar10-airbench:airbench94_muon.py, `CifarLoader`.
    """
    first = uniform(seed, 0, ids, [draw])[0]
    return (1 - 2.0**-24) - first if epoch % 2 else first
