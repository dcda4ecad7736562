"""Where in an image a class is read, from nothing but answers: cover a part, and see how far its probability falls.

For files that carry no map of their own. Method: Zeiler and Fergus, Visualizing and Understanding Convolutional
Networks, arXiv:1311.2901, section 2.1, on a grid without overlap.
"""

import numpy as np
from jaxtyping import Float, UInt8

SIDE = 7
"""Cells of the grid along each axis."""


def grid_of(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the grid."""
    return min(SIDE, height), min(SIDE, width)


def covered(pixels: UInt8[np.ndarray, "C h w"], cells: range) -> UInt8[np.ndarray, "cells C h w"]:
    """The image again for each of some cells, with that cell in the mean colour of the image.

    Args:
        pixels: the image.
        cells: numbers of cells, row by row.
    """
    channels, height, width = pixels.shape
    rows, columns = grid_of(height, width)
    colour = pixels.reshape(channels, -1).mean(1).round().astype(np.uint8)[:, None, None]
    images = np.repeat(pixels[None], len(cells), axis=0)
    tops, lefts = (np.linspace(0, side, n + 1).round().astype(int) for side, n in ((height, rows), (width, columns)))
    for image, cell in zip(images, cells, strict=True):
        row, column = divmod(cell, columns)
        image[:, tops[row] : tops[row + 1], lefts[column] : lefts[column + 1]] = colour
    return images


def drops(whole: float, of_covered: Float[np.ndarray, "cells"]) -> list[float]:
    """How far the probability falls for each cell; negative where it rises."""
    return [round(whole - float(value), 6) for value in of_covered]
