"""What a request goes through: its body is read, decoded, classified, and ranked. Shared by all routes."""

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from starlette.requests import ClientDisconnect, Request

from vitrail.config import to_json
from vitrail.predictor.answers import Answer, Outputs, joined
from vitrail.predictor.exported import ExportedPredictor
from vitrail.serving.batching import Batcher, Expired
from vitrail.serving.decoders import Decoded, DecoderDied, Decoders, Refused
from vitrail.serving.endpoints import Failure, Left
from vitrail.serving.metrics import Metrics
from vitrail.serving.occlusion import covered, drops, grid_of
from vitrail.serving.options import ServeOptions

T = TypeVar("T")
_CURL = "Send the file as it is: curl --data-binary @photo.jpg ADDRESS/predict"


@dataclass
class Asked:
    """A request on its way.

    Args:
        deadline: of `time.monotonic`.
        seconds: how long each stage took: queue, decode, model.
    """

    decoded: Decoded
    deadline: float
    seconds: dict[str, float] = field(default_factory=lambda: {"queue": 0.0, "decode": 0.0, "model": 0.0})


class Service:
    """A model behind a queue, and decoders.

    Args:
        model: computes the answers.
        options: limits.
        metrics: what is counted.
        batcher: in front of the model.
        decoders: read the bodies.
    """

    def __init__(
        self,
        model: ExportedPredictor,
        options: ServeOptions,
        metrics: Metrics,
        batcher: Batcher[Outputs],
        decoders: Decoders,
    ) -> None:
        self.model, self.options, self.metrics = model, options, metrics
        self.batcher, self.decoders = batcher, decoders
        self.name = options.name or model.name
        self.version = _version(model)
        self.is_draining = False
        self._body_bytes = self._coming = 0
        metrics.model.labels(self.name, self.version).set(1)
        metrics.watch("vitrail_queue_images", "Images that wait for the model.", lambda: batcher.queued_images)
        metrics.watch("vitrail_body_bytes", "Of bodies that are held.", lambda: self._body_bytes)
        metrics.watch("vitrail_decoders", "Decoder processes that live.", lambda: decoders.alive)

    @property
    def is_ready(self) -> bool:
        """Whether further requests are welcome."""
        return not self.is_draining and self.decoders.alive > 0

    @property
    def is_alive(self) -> bool:
        """Whether the model still answers."""
        since = self.batcher.running_since
        return since is None or time.monotonic() - since < 2 * self.options.timeout + 10

    async def asked(self, request: Request, kind: str, *, tensor: bool = False) -> Asked:
        """Read and decode the body of a request.

        Args:
            kind: predict, huggingface or infer.
            tensor: the body holds pixels (Open Inference Protocol).
        Raises:
            Failure: it is not answered, and why.
            Left: nobody waits for an answer any more.
        """
        self._check_wait(self.options.timeout)
        form = {
            "kind": kind, "tensor": tensor,
            "is_json": "json" in request.headers.get("content-type", "").lower(),
            "header_length": _header_length(request),
        }  # fmt: skip
        body = await self._body(request)
        size = len(body)
        begun = time.monotonic()
        deadline = begun + self.options.timeout
        try:
            self._check_wait(self.options.timeout)
            self._coming += 1
            try:
                decoded = await self._unless_gone(request, self._decoded(body, form, deadline))
            finally:
                self._coming -= 1
        finally:
            self._body_bytes -= size
        asked = Asked(decoded, min(deadline, begun + decoded.asked.get("timeout", math.inf)))
        asked.seconds["decode"] = time.monotonic() - begun
        self.metrics.stages.labels("decode").observe(asked.seconds["decode"])
        return asked

    async def outputs(self, request: Request, asked: Asked, pixels: UInt8[np.ndarray, "b C h w"]) -> Outputs:
        """What the model gives for some images. Raises Failure or Left."""
        begun = time.monotonic()
        try:
            outputs, waited = await self._unless_gone(request, self._computed(pixels, asked.deadline))
        except Expired as error:
            raise self._late() from error
        taken = time.monotonic() - begun - waited
        for stage, seconds in (("queue", waited), ("model", taken)):
            asked.seconds[stage] += seconds
            self.metrics.stages.labels(stage).observe(seconds)
        return outputs

    async def _computed(self, pixels: UInt8[np.ndarray, "b C h w"], deadline: float) -> tuple[Outputs, float]:
        """What the model gives, and the seconds that the last of the images waited. Raises Expired."""
        step = self.batcher.max_batch
        if len(pixels) <= step:
            return await self.batcher(pixels, deadline)
        parts = [self.batcher(pixels[start : start + step], deadline) for start in range(0, len(pixels), step)]
        found = await asyncio.gather(*parts)
        return joined([outputs for outputs, _ in found]), max(waited for _, waited in found)

    async def ranked(self, request: Request, asked: Asked, top: int) -> dict[int, Answer]:
        """The ranked classes of every image that could be read, by its index. Raises Failure or Left."""
        found = asked.decoded.pixels
        if not found:
            return {}
        outputs = await self.outputs(request, asked, np.stack(list(found.values())))
        answers: Sequence[Answer] = self.model.ranked(outputs, top=min(top, len(self.model.labels)))
        return dict(zip(found, answers, strict=True))

    async def explained(self, request: Request, asked: Asked) -> dict[str, Any]:
        """The map of one image, by occlusion. Raises Failure or Left."""
        pixels = next(iter(asked.decoded.pixels.values()))
        outputs = await self.outputs(request, asked, pixels[None])
        best = int(outputs.probabilities[0].argmax())
        whole = float(outputs.probabilities[0, best])
        rows, columns = grid_of(*pixels.shape[1:])
        of_covered: list[np.ndarray] = []
        step = max(1, self.batcher.max_batch)
        for start in range(0, rows * columns, step):  # between two batches others have their turn
            part = await self.outputs(request, asked, covered(pixels, range(start, min(start + step, rows * columns))))
            of_covered.append(part.probabilities[:, best])
        values = drops(whole, np.concatenate(of_covered))
        known = not self.model.ranked(outputs, top=1)[0].is_unknown
        answer = {"label": self.model.labels[best], "probability": whole, "known": known}
        return {**answer, "grid": [rows, columns], "values": values}

    def card(self) -> dict[str, Any]:
        """What `/model` says: the model, and the limits in force."""
        limits = self.options
        return {
            "name": self.name,
            "version": self.version,
            "classes": list(self.model.labels),
            "note": self.model.note,
            "can_say_unknown": self.model.description.unknown is not None,
            "preprocessing": to_json(self.model.preprocessing),
            "formats": readable_formats(),
            "explain": self.options.explain,
            "limits": {
                "max_body_bytes": limits.max_body, "max_images": limits.max_images, "max_pixels": limits.max_pixels,
                "timeout_seconds": limits.timeout, "queue_seconds": limits.queue_seconds,
                "max_connections": limits.max_connections,
            },
        }  # fmt: skip

    def _check_wait(self, left: float) -> None:
        """Refuse at once whoever would wait too long. Raises Failure."""
        computing = self.batcher.estimated_wait + self._coming * self.batcher.seconds_an_image
        wait = self.decoders.estimated_wait + computing
        if wait > min(self.options.queue_seconds, left):
            raise Failure(503, "The server is busy.", reason="queue", retry_after=max(1, math.ceil(wait / 2)))
        if not self.decoders.alive:
            raise Failure(503, "The server is starting its decoders.", reason="starting", retry_after=1)

    async def _body(self, request: Request) -> bytearray:
        """The body, counted as it comes. What it has is added to the bytes that are held. Raises Failure or Left."""
        most = self.options.max_body
        stated = request.headers.get("content-length", "0")
        if int(stated) > most:
            raise self._too_large(stated)
        body = bytearray()
        try:
            async for piece in request.stream():
                if len(body) + len(piece) > most:
                    raise self._too_large(f"more than {most}")
                if self._body_bytes + len(piece) > self.options.body_memory:
                    raise Failure(503, "The server is busy.", reason="memory", retry_after=1)
                body += piece
                self._body_bytes += len(piece)
        except BaseException as error:
            self._body_bytes -= len(body)
            if isinstance(error, ClientDisconnect):
                raise Left from error
            raise
        return body

    async def _decoded(self, body: bytearray, form: dict[str, Any], deadline: float) -> Decoded:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self.decoders.decode(body, form)
        except TimeoutError as error:
            raise self._late() from error
        except Refused as refused:
            raise Failure(refused.status, reason="body", **refused.named) from refused
        except DecoderDied as error:
            do = "Try another image; this one may be damaged in a way that no decoder survives."
            raise Failure(500, "The image could not be decoded.", do=do, reason="decoder") from error

    async def _unless_gone(self, request: Request, work: Awaitable[T]) -> T:
        """The result of some work, which is given up when the client leaves. Raises Left."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Left
            return working.result()
        finally:
            for task in (working, leaving):
                task.cancel()

    def _too_large(self, stated: object) -> Failure:
        most = f"at most {self.options.max_body} bytes"
        return Failure(413, "The body is too large.", got=f"{stated} bytes", expected=most, reason="size")

    def _late(self) -> Failure:
        return Failure(504, "The server did not come to this request in time.", reason="deadline", retry_after=1)


def readable_formats() -> list[str]:
    """The image formats that are read here."""
    import importlib.util

    heic = ["HEIC"] if importlib.util.find_spec("pillow_heif") else []
    return ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF", *heic]


def unreadable(decoded: Decoded) -> Failure:
    """The answer to a request none of whose images can be read."""
    _, reason, status = min(decoded.errors)
    errors = [{"index": index, "error": reason} for index, reason, _ in decoded.errors]
    return Failure(
        status, "The image cannot be read." if len(errors) == 1 else "None of the images can be read.",
        got=reason, expected=f"an image file: {', '.join(readable_formats())}", do=_CURL, reason="image",
        more={"errors": errors},
    )  # fmt: skip


def _header_length(request: Request) -> int | None:
    given = request.headers.get("inference-header-content-length")
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 12:
        raise Failure(400, "Inference-Header-Content-Length is no length.", got=given, reason="body")
    return int(given)


def _version(model: ExportedPredictor) -> str:
    """Names the weights: the beginning of a hash."""
    digest = (
        getattr(model.description, "graph_sha256", "") or hashlib.sha256(repr(model.description).encode()).hexdigest()
    )
    return str(digest)[:12]
