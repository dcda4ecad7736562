"""Geometry: every step one 3x3 matrix per image, all of them multiplied, then the image is sampled once.

A matrix maps a point of the output to the point of the input it is read from, in homogeneous coordinates (x, y, 1) in
pixels of the input with the origin at the image's centre; x points right, y down. Applying step 1, then step 2, to an
image is therefore the product `step1 @ step2`. Steps that move whole pixels (flip, crop out of a padded image) have an
exact form as well: `shift_and_flip` gathers pixels and never interpolates.

In: normalised float images [B, C, h, w] and parameters [B]. Out: float images [B, C, H, W].

Paper: "Spatial Transformer Networks" (arXiv:1506.02025), section 3.2, for sampling through a matrix
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from vitrail.augment import cpu

Fill = Literal["black", "mean", "reflect"]

MAX_BILINEAR_REDUCTION = 1.5
"""Bilinear sampling reads 2x2 pixels and starts to alias where more of them fall into one output pixel."""


def identity(num_images: int, device: torch.device) -> Float[Tensor, "B 3 3"]:
    """One identity matrix an image."""
    return torch.eye(3, device=device).repeat(num_images, 1, 1)


def scaling(x: Float[Tensor, "B"], y: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Read the point (x * px, y * py) for (px, py): -1 mirrors, 0.5 magnifies twice."""
    return torch.diag_embed(torch.stack((x, y, torch.ones_like(x)), -1))


def translation(x: Float[Tensor, "B"], y: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Move the image's content by (x, y) pixels, right and down."""
    matrix = identity(len(x), x.device)
    matrix[:, 0, 2], matrix[:, 1, 2] = -x, -y
    return matrix


def rotation(degrees: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Turn the image's content counter-clockwise about its centre."""
    angle = torch.deg2rad(degrees)
    matrix = identity(len(angle), angle.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.cos(angle)
    matrix[:, 0, 1], matrix[:, 1, 0] = -torch.sin(angle), torch.sin(angle)
    return matrix


def shearing(
    x: Float[Tensor, "B"], y: Float[Tensor, "B"], origin: tuple[float, float] = (0.0, 0.0)
) -> Float[Tensor, "B 3 3"]:
    """Move each row left by x * (distance below the origin), then each column up by y * (distance right of it).

    Args:
        x, y: tangents of the angles.
        origin: (x, y) of the point that stays, in pixels from the centre.
    """
    shear_x, shear_y = identity(len(x), x.device), identity(len(y), y.device)
    shear_x[:, 0, 1], shear_x[:, 0, 2] = x, -x * origin[1]
    shear_y[:, 1, 0], shear_y[:, 1, 2] = y, -y * origin[0]
    return shear_x @ shear_y


def cropping(
    area: Float[Tensor, "B"],
    log_aspect: Float[Tensor, "B"],
    x: Float[Tensor, "B"],
    y: Float[Tensor, "B"],
    size: tuple[int, int],
) -> Float[Tensor, "B 3 3"]:
    """Blow a rectangle of the image up to the whole of it (random resized crop).

    Args:
        area: of the rectangle, a fraction of the image in (0, 1].
        log_aspect: natural logarithm of width / height in pixels; limited to what fits into the image at that area.
        x, y: place of the rectangle in [0, 1]: 0 left or top, 1 right or bottom.
        size: (height, width) of the image.
    Source: arXiv:1409.4842, section 6; here not rounded to whole pixels.
    """
    width, height = box_sides(area, log_aspect, size)
    fraction_x, fraction_y = width / size[1], height / size[0]
    centre_x, centre_y = (x - 0.5) * (size[1] - width), (y - 0.5) * (size[0] - height)
    return translation(-centre_x, -centre_y) @ scaling(fraction_x, fraction_y)


def box_sides(
    area: Float[Tensor, "B"], log_aspect: Float[Tensor, "B"], size: tuple[int, int]
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Width and height in pixels of a box with this fraction of the area, its aspect limited so that it fits."""
    height, width = size
    aspect = torch.exp(log_aspect)
    aspect = torch.minimum(torch.maximum(aspect, area * width / height), width / (height * area))
    pixels = area * (height * width)
    return torch.sqrt(pixels * aspect), torch.sqrt(pixels / aspect)


def shift_and_flip(
    images: Shaped[Tensor, "B C h w"],
    flip: Bool[Tensor, "B"],
    x: Int64[Tensor, "B"],
    y: Int64[Tensor, "B"],
    padding: int,
    fill: Fill,
    fill_values: Shaped[Tensor, "C"],
) -> Shaped[Tensor, "B C h w"]:
    """Mirror left and right where `flip`, pad by `padding`, cut the input's size out at (x, y); exact, pixel by pixel.

    Args:
        images: of any type, uint8 being the fastest.
        fill_values: of the same type; reflect needs none.
        x, y: left and top edge of the cut in the padded image, 0 to 2 * padding.
    """
    if fill != "reflect" and cpu.is_faster_cut(images):
        framed = _frame(images, padding, fill_values) if padding else images
        return cpu.cut_and_flip(framed, flip, x, y, (images.shape[2], images.shape[3]))
    num_images, num_channels, height, width = images.shape
    columns = torch.arange(width, device=images.device) + (x - padding).unsqueeze(1)
    rows = torch.arange(height, device=images.device) + (y - padding).unsqueeze(1)
    columns = torch.where(flip.unsqueeze(1), width - 1 - columns, columns)
    if fill == "reflect":
        columns = (width - 1) - ((width - 1) - columns.abs()).abs()
        rows = (height - 1) - ((height - 1) - rows.abs()).abs()
    elif padding:
        images = _frame(images, padding, fill_values)
        columns, rows, width = columns + padding, rows + padding, width + 2 * padding
    index = (rows * width).unsqueeze(2) + columns.unsqueeze(1)
    out_size = index.shape[1:]
    index = index.view(num_images, 1, -1).expand(-1, num_channels, -1)
    return images.flatten(2).gather(2, index).unflatten(2, out_size)


def _frame(images: Shaped[Tensor, "B C h w"], padding: int, values: Shaped[Tensor, "C"]) -> Shaped[Tensor, "B C H W"]:
    """Pad all four sides with one value a channel."""
    num_images, num_channels, height, width = images.shape
    framed = values.new_empty(num_images, num_channels, height + 2 * padding, width + 2 * padding)
    framed.copy_(values.view(1, -1, 1, 1))
    framed[:, :, padding : padding + height, padding : padding + width] = images
    return framed


def resize(images: Float[Tensor, "B C h w"], size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    """Resize to (height, width), bilinear, antialiased where it shrinks; the same tensor when it has that size."""
    if tuple(images.shape[2:]) == size:
        return images
    if cpu.is_faster_by_axes(images, size):
        return cpu.resize_by_axes(images, size)

    def one_chunk(start: int, stop: int) -> Tensor:
        return F.interpolate(images[start:stop], size, mode="bilinear", align_corners=False, antialias=True)

    return cpu.in_chunks(one_chunk, (*images.shape[:2], *size), images.device)


def prefilter(
    images: Float[Tensor, "B C h w"], size: tuple[int, int], smallest_area: float
) -> Float[Tensor, "B C H W"]:
    """Shrink images that are much larger than the output, antialiased, so that bilinear sampling does not alias.

    Where the crop may magnify, up to twice the output size is kept: the smallest crops stay sharp, the largest are
    then reduced by at most two.

    Args:
        size: (height, width) of the output.
        smallest_area: smallest fraction of the image that fills the output.
    """
    magnification = min(2.0, smallest_area**-0.5)
    keep = tuple(
        min(have, round(want * magnification)) if have > MAX_BILINEAR_REDUCTION * want else have
        for have, want in zip(images.shape[2:], size, strict=True)
    )
    return resize(images, (keep[0], keep[1]))


def resample(
    images: Float[Tensor, "B C h w"],
    matrices: Float[Tensor, "B 3 3"],
    source_size: tuple[int, int],
    size: tuple[int, int],
    *,
    fill: Fill,
    fill_values: Float[Tensor, "C"],
    is_inside: bool = False,
    is_upright: bool = False,
) -> Float[Tensor, "B C H W"]:
    """Sample each image once through its matrix, bilinear, stretched to `size`.

    A point inside the image's outline reads the image, its border pixels extended outwards as by `resize`; a point
    outside reads the fill, without blending, as Pillow does. With reflect, the image is mirrored about the centres of
    its border pixels, as by `torch.nn.functional.pad`.

    Args:
        matrices: output point to input point, in pixels of `source_size` from the centre.
        source_size: (height, width) that the matrices are in; `images` may be a prefiltered, smaller version.
        size: (height, width) of the output.
        is_inside: every point is known to lie inside, so there is nothing to fill.
        is_upright: every matrix scales, mirrors and shifts alone, so that columns and rows can be sampled in turn.
    """
    if is_upright and fill != "reflect" and cpu.is_faster_by_axes(images, size):
        return cpu.sample_by_axes(images, matrices, source_size, size, None if is_inside else fill_values)
    across, down = _grid_parts(matrices, source_size, size)
    height, width = images.shape[2:]
    is_reflected = fill == "reflect"
    has_fill = not (is_inside or is_reflected)
    if is_reflected:
        # With aligned corners, grid_sample mirrors about pixel centres; +-1 are then the outermost centres.
        stretch = (width / max(width - 1, 1), height / max(height - 1, 1))
    elif has_fill:
        # One pixel of the image repeated, then one of the fill, which padding_mode="border" continues for ever.
        images = _frame(F.pad(images, (1, 1, 1, 1), mode="replicate"), 1, fill_values)
        stretch = (width / (width + 4), height / (height + 4))
    else:
        stretch = (1.0, 1.0)
    for plane, factor in enumerate(stretch):
        across[:, plane] *= factor
        down[:, plane] *= factor

    def one_chunk(start: int, stop: int) -> Tensor:
        grid = across[start:stop] + down[start:stop]
        if has_fill:
            for plane, edge in enumerate(stretch):
                # Beyond the edge, jump well past the repeated pixel: nothing blends with the fill.
                grid[:, plane].add_(F.hardshrink(grid[:, plane], edge), alpha=8.0)
        return F.grid_sample(
            images[start:stop],
            grid.permute(0, 2, 3, 1),
            mode="bilinear",
            padding_mode="reflection" if is_reflected else "border",
            align_corners=is_reflected,
        )

    return cpu.in_chunks(one_chunk, (*images.shape[:2], *size), images.device)


def _grid_parts(
    matrices: Float[Tensor, "B 3 3"], source_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Float[Tensor, "B 2 1 W"], Float[Tensor, "B 2 H 1"]]:
    """The two summands of the sampling points: what depends on the column (and the shift), what on the row.

    Points are in units of half the source's sides, x before y: the image's outline is the square from -1 to 1.
    """
    device = matrices.device
    half_height, half_width = source_size[0] / 2, source_size[1] / 2
    x = (torch.arange(size[1], device=device) + 0.5) * (source_size[1] / size[1]) - half_width
    y = (torch.arange(size[0], device=device) + 0.5) * (source_size[0] / size[0]) - half_height
    across = matrices[:, :2, 0, None] * x + matrices[:, :2, 2, None]
    down = matrices[:, :2, 1, None] * y
    for part in (across, down):
        part[:, 0] /= half_width
        part[:, 1] /= half_height
    return across.unsqueeze(2), down.unsqueeze(3)
