"""What a CPU does in another way, because it is faster there; the results are those of `geometry`, within rounding.

* Outputs of several MB keep their memory, and images are worked on a cacheful at a time.
* Where every matrix is upright (scaling, mirroring, shifting), an output pixel is a weighted sum of two columns of two
  rows. Columns come first, as one small matrix product; then each output row is a weighted sum of two rows, which is
  what an embedding bag computes, at the speed of memory.
* Whole pixels are moved by NumPy, which copies a row at a time and does not wait for a second thread; its operations on
  small arrays also begin sooner, of which random numbers take a hundred a batch.

In: images [B, C, h, w], normalised and float unless said. Out: images [B, C, H, W] of the same type.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

CHUNK_BYTES = 2 << 20
"""Images are sampled so many output bytes at a time: temporaries then stay in the cache."""
_AXES_CHUNK_BYTES = 4 << 20
"""The same for each thread where columns and rows are sampled in turn: its temporaries are smaller."""
_MAX_PIXELS = 96 * 96
"""Of an input whose columns are sampled by a product with a dense matrix; above that, taking two of them is cheaper."""
_NUMPY_TYPES = (torch.uint8, torch.float16, torch.float32, torch.float64)
_REUSE_FROM_BYTES, _REUSE_UP_TO_BYTES = 1 << 20, 512 << 20
_MAX_KEPT_OUTPUTS, _MAX_KEPT_ALIKE = 4, 2


class _Outputs:
    """Memory of large CPU outputs, handed out again once nobody holds a tensor on it.

    The C library returns large buffers to the system when they are freed; getting the pages back costs several times
    the resampling itself. A tensor made by `torch.from_numpy` holds a reference to its array for as long as any view
    of it lives, so the reference count tells whether the memory is free.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """An uninitialised float32 tensor; other devices than the CPU keep their memory themselves."""
        size = prod(shape)
        if device.type != "cpu":
            return torch.empty(shape, device=device)
        if not _REUSE_FROM_BYTES <= 4 * size <= _REUSE_UP_TO_BYTES:
            return torch.empty(shape)
        with self._lock:
            alike = [n for n, array in enumerate(self._arrays) if size <= array.size <= 2 * size]
            for position in alike:
                # Two references: the list's and the argument's own.
                if sys.getrefcount(self._arrays[position]) == 2:
                    return torch.from_numpy(self._arrays[position][:size]).view(shape)
            if len(alike) >= _MAX_KEPT_ALIKE:
                del self._arrays[alike[0]]
            elif len(self._arrays) >= _MAX_KEPT_OUTPUTS:
                del self._arrays[0]
            array = np.empty(size, np.float32)
            self._arrays.append(array)
            return torch.from_numpy(array[:]).view(shape)


outputs = _Outputs()


def in_chunks(
    compute: Callable[[int, int], Tensor],
    shape: tuple[int, ...],
    device: torch.device,
    chunk_bytes: int = CHUNK_BYTES,
) -> Float[Tensor, "B C H W"]:
    """Compute images start to stop at a time into one output; on anything but a CPU, all at once."""
    if device.type != "cpu" or shape[0] == 0:
        return compute(0, shape[0])
    out = outputs.empty(shape, device)
    for start, stop in _chunks(shape, chunk_bytes):
        out[start:stop] = compute(start, stop)
    return out


def _chunks(shape: tuple[int, ...], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    num_threads = torch.get_num_threads()
    per_thread = max(1, chunk_bytes // (4 * prod(shape[1:]) * num_threads))
    length = per_thread * num_threads
    for start in range(0, shape[0], length):
        yield start, min(start + length, shape[0])


# ---- whole pixels, and random numbers ----------------------------------------------------------------------------


def is_faster_cut(images: Tensor) -> bool:
    """Whether whole pixels should be moved by `cut_and_flip`: on a CPU, where NumPy knows their type."""
    return images.device.type == "cpu" and images.dtype in _NUMPY_TYPES and not images.requires_grad


def cut_and_flip(
    framed: Shaped[Tensor, "B C h w"],
    flip: Bool[Tensor, "B"],
    x: Int64[Tensor, "B"],
    y: Int64[Tensor, "B"],
    size: tuple[int, int],
) -> Shaped[Tensor, "B C H W"]:
    """Cut `size` out of padded images of any type, as `geometry.shift_and_flip`: x counts in the mirrored image.

    Args:
        framed: with the same padding on all sides.
    """
    images, flipped = framed.numpy(), flip.numpy()
    (num_images, num_channels), (height, width) = images.shape[:2], size
    num_y, num_x = images.shape[2] - height + 1, images.shape[3] - width + 1
    left = np.where(flipped, num_x - 1 - x.numpy(), x.numpy())
    along, deep, down, across = images.strides
    windows = np.lib.stride_tricks.as_strided(
        images, (num_images, num_y, num_x, num_channels, height, width), (along, down, across, deep, down, across)
    )
    cut = windows[np.arange(num_images), y.numpy(), left]
    where = np.flatnonzero(flipped)
    cut[where] = torch.from_numpy(cut[where]).flip(3).numpy()
    return torch.from_numpy(np.ascontiguousarray(cut))


def philox(
    counter: Int64[Tensor, "4 B n"], multipliers: Int64[Tensor, "2 1 1"], keys: Int64[Tensor, "rounds 2 1 1"]
) -> Int64[Tensor, "4 B n"]:
    """Encrypt counters as `random.philox` does, in unsigned arithmetic; the constants are its own."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    factors = multipliers.numpy().view(np.uint64) & mask
    words = counter.numpy().view(np.uint64)
    even, odd = words[0::2], words[1::2]
    for round_key in keys.numpy().view(np.uint64):
        product = even * factors
        even = (product >> half)[::-1] ^ odd
        even ^= round_key
        product &= mask
        odd = product[::-1]
    return torch.from_numpy(np.stack((even[0], odd[0], even[1], odd[1])).view(np.int64))


# ---- columns, then rows ------------------------------------------------------------------------------------------


def is_faster_by_axes(images: Float[Tensor, "B C h w"], size: tuple[int, int]) -> bool:
    """Whether columns and rows should be sampled in turn: small images that are magnified, on a CPU."""
    height, width = images.shape[2:]
    is_small = height * width <= _MAX_PIXELS and height <= size[0] and width <= size[1]
    return images.device.type == "cpu" and is_small


def resize_by_axes(images: Float[Tensor, "B C h w"], size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    """Magnify to (height, width), bilinear: as `geometry.resize`."""
    x, y = (_centres(have, want) for have, want in zip((images.shape[3], images.shape[2]), size[::-1], strict=True))
    return _sample(images, x, y, None)


def sample_by_axes(
    images: Float[Tensor, "B C h w"],
    matrices: Float[Tensor, "B 3 3"],
    source_size: tuple[int, int],
    size: tuple[int, int],
    fill_values: Float[Tensor, "C"] | None,
) -> Float[Tensor, "B C H W"]:
    """Sample each image once through its upright matrix: as `geometry.resample` with a constant fill.

    Args:
        fill_values: what is read outside the image's outline; None: no point lies there.
    """
    points: list[Tensor] = []
    for axis, (have, source, want) in enumerate(
        zip((images.shape[3], images.shape[2]), source_size[::-1], size[::-1], strict=True)
    ):
        from_centre = (torch.arange(want) + 0.5) * (source / want) - source / 2
        moved = matrices[:, axis, axis, None] * from_centre + matrices[:, axis, 2, None]
        points.append(moved * (have / source) + (have - 1) / 2)
    return _sample(images, points[0], points[1], fill_values)


@lru_cache(maxsize=64)
def _centres(have: int, want: int) -> Float[Tensor, "1 want"]:
    """Where the pixels of a resized axis are read from, in pixels of the input, 0 being the first one's centre."""
    return ((torch.arange(want, dtype=torch.float64) + 0.5) * (have / want) - 0.5).float().unsqueeze(0)


def _sample(images: Tensor, x: Tensor, y: Tensor, fill_values: Tensor | None) -> Float[Tensor, "B C H W"]:
    """Sample the grid of the points x [B or 1, W] and y [B or 1, H], in pixels of the input from its first centre."""
    num_images, num_channels, height, width = images.shape
    if fill_values is not None:
        # One more column and one more row hold the fill; points outside read nothing else.
        framed = fill_values.view(1, -1, 1, 1).repeat(num_images, 1, height + 1, width + 1)
        framed[:, :, :height, :width] = images
        images = framed
    columns = _weights_of_columns(x, width, fill_values is not None)
    rows, weights = _pairs_of_rows(y, height, fill_values is not None)
    planes = torch.arange(num_channels).view(-1, 1, 1) * images.shape[2]
    step = num_channels * images.shape[2]

    def one_chunk(start: int, stop: int) -> Tensor:
        length = stop - start
        wide = images[start:stop].flatten(1, 2) @ (columns if len(columns) == 1 else columns[start:stop])
        here = slice(start, stop) if len(rows) > 1 else slice(0, 1)
        first = torch.arange(length).view(-1, 1, 1, 1) * step + planes
        index = (first + rows[here, None]).view(-1, 2)
        shares = weights[here, None].expand(length, num_channels, -1, -1).reshape(-1, 2)
        taken = F.embedding_bag(index, wide.flatten(0, 1), mode="sum", per_sample_weights=shares)
        return taken.view(length, num_channels, y.shape[1], x.shape[1])

    shape = (num_images, num_channels, y.shape[1], x.shape[1])
    return in_chunks(one_chunk, shape, images.device, _AXES_CHUNK_BYTES * torch.get_num_threads())


def _weights_of_columns(x: Tensor, width: int, has_fill: bool) -> Float[Tensor, "n width W"]:
    """What each column of the input adds to each column of the output; the last one is the fill's."""
    inside = x.clamp(0, width - 1).unsqueeze(1)
    shares = (1 - (inside - torch.arange(width).view(-1, 1)).abs_()).clamp_(min=0)
    if not has_fill:
        return shares
    outside = _is_outside(x, width).unsqueeze(1)
    return torch.cat((shares.masked_fill_(outside, 0), outside.float()), 1)


def _pairs_of_rows(y: Tensor, height: int, has_fill: bool) -> tuple[Tensor, Tensor]:
    """The two rows of the input that each output row is made of, and their shares: both [n, H, 2]."""
    inside = y.clamp(0, height - 1)
    above = inside.floor()
    share = inside - above
    first = above.long()
    second = (first + 1).clamp_(max=height - 1)
    if has_fill:
        outside = _is_outside(y, height)
        first, second = first.masked_fill_(outside, height), second.masked_fill_(outside, height)
    return torch.stack((first, second), 2), torch.stack((1 - share, share), 2)


def _is_outside(points: Tensor, length: int) -> Tensor:
    """Beyond the outline, which lies half a pixel outside the outermost centres."""
    return (points < -0.5) | (points > length - 0.5)
