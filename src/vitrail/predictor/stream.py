"""Many images, a batch at a time: decoded by threads, answered in their order. No torch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from vitrail.errors import ImageError
from vitrail.predictor.answers import Answer, Prediction
from vitrail.predictor.image_like import ImageLike, name_of


def answer_stream(
    images: Sequence[ImageLike],
    decode: Callable[[ImageLike], UInt8[np.ndarray, "C h w"]],
    answer: Callable[[UInt8[np.ndarray, "B C h w"]], list[Answer]],
    batch_size: int,
    *,
    overlaps: bool,
) -> Iterator[Prediction | ImageError]:
    """A prediction for each image; an unreadable one yields its error.

    Args:
        decode: one image; raises ImageError.
        answer: a batch of them.
        batch_size: images at a time.
        overlaps: the next batch is decoded while one is answered: where other hardware answers than decodes.
    """
    chunks = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]

    def pixels_or_error(image: ImageLike) -> np.ndarray | ImageError:
        try:
            return decode(image)
        except ImageError as error:
            return error

    def submit(number: int) -> list[Future[np.ndarray | ImageError]]:
        return [pool.submit(pixels_or_error, image) for image in chunks[number]] if number < len(chunks) else []

    with ThreadPoolExecutor() as pool:
        waiting = submit(0)
        for number, chunk in enumerate(chunks):
            decoded = [future.result() for future in waiting]
            waiting = submit(number + 1) if overlaps else []
            good = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
            answers = iter(answer(np.stack(good)) if good else ())
            for image, pixels in zip(chunk, decoded, strict=True):
                yield Prediction(name_of(image), *next(answers)) if isinstance(pixels, np.ndarray) else pixels
            waiting = waiting or submit(number + 1)


def all_of(stream: Iterator[Prediction | ImageError]) -> list[Prediction]:
    """Every prediction of a stream. Raises ImageError: one image cannot be read."""
    results: list[Prediction] = []
    for result in stream:
        if isinstance(result, ImageError):
            raise result
        results.append(result)
    return results
