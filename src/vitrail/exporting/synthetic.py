"""Pictures made of nothing, for comparing two forms of one model where there are no photographs. No torch."""

import io

import numpy as np
from PIL import Image

_SIZES = ((500, 375), (375, 500), (640, 480), (224, 224), (96, 160), (333, 333))


def synthetic_photographs(count: int, seed: int = 0) -> list[bytes]:
    """JPEG files of clouds of colour at several scales, of several sizes, the same every time.

    Their spectrum falls with the frequency as that of photographs does; they show nothing, so what a model answers for
    them says how it computes, and nothing about how good it is.
    """
    random = np.random.default_rng(seed)
    files: list[bytes] = []
    for number in range(count):
        width, height = _SIZES[number % len(_SIZES)]
        pixels = np.full((height, width, 3), 128, np.float32)
        for side, strength in ((2, 70), (5, 45), (12, 30), (40, 18), (120, 10)):
            cloud = random.normal(0, strength, (side, side, 3)).clip(-127, 127) + 128
            resized = Image.fromarray(cloud.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
            pixels += np.asarray(resized, np.float32) - 128
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files
