"""The Open Inference Protocol, version 2, as far as a classifier needs it: what KServe and Triton's clients speak.

Two models: NAME takes encoded image files (BYTES), NAME-tensor takes pixels (UINT8). Left out on purpose: repositories,
shared memory, logging, tracing, statistics. Source: github.com/kserve/open-inference-protocol, and the extensions
binary_tensor_data and classification of Triton Inference Server.
"""

import json
import struct
from typing import Any

import numpy as np
from jaxtyping import Float
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitrail import __version__
from vitrail.predictor.answers import Outputs
from vitrail.serving.endpoints import Failure, answer, route
from vitrail.serving.service import Service, unreadable

_VERSION = "1"
_HEADER_LENGTH = "inference-header-content-length"


class InferenceProtocol:
    """The endpoints below /v2.

    Args:
        service: what answers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """All of them."""
        table = [
            route("/v2", self.server, "GET"),
            route("/v2/health/live", self.live, "GET"),
            route("/v2/health/ready", self.ready, "GET"),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            table += [
                route(path, self.metadata, "GET"),
                route(f"{path}/ready", self.model_ready, "GET"),
                route(f"{path}/infer", self.infer, "POST"),
            ]
        return table

    async def server(self, _: Request) -> Response:
        """What this server is."""
        extensions = ["binary_tensor_data", "classification"]
        return answer({"name": "vitrail", "version": __version__, "extensions": extensions})

    async def live(self, _: Request) -> Response:
        """As /livez."""
        return answer({"live": self._service.is_alive}, 200 if self._service.is_alive else 503)

    async def ready(self, _: Request) -> Response:
        """As /readyz."""
        return answer({"ready": self._service.is_ready}, 200 if self._service.is_ready else 503)

    async def metadata(self, request: Request) -> Response:
        """Inputs and outputs of a model."""
        tensor, service = self._is_tensor(request), self._service
        height, width = service.model.preprocessing.decode_size
        pixels = [-1, height, width, service.model.preprocessing.num_channels]
        labels = len(service.model.labels)
        return answer(
            {
                "name": self._name(tensor),
                "versions": [_VERSION],
                "platform": "vitrail",
                "inputs": [
                    {"name": "image", "datatype": "UINT8", "shape": pixels}
                    if tensor
                    else {"name": "image", "datatype": "BYTES", "shape": [-1]}
                ],
                "outputs": [
                    {"name": name, "datatype": "FP32", "shape": [-1, labels]} for name in ("probabilities", "logits")
                ],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """As /readyz, for one of the models."""
        name = self._name(self._is_tensor(request))
        return answer({"name": name, "ready": self._service.is_ready}, 200 if self._service.is_ready else 503)

    async def infer(self, request: Request) -> Response:
        """Images or pixels to probabilities, logits, or ranked classes."""
        tensor = self._is_tensor(request)
        asked = await self._service.asked(request, "infer", tensor=tensor)
        if asked.decoded.errors:
            raise unreadable(asked.decoded)
        pixels = [asked.decoded.pixels[index] for index in sorted(asked.decoded.pixels)]
        outputs = await self._service.outputs(request, asked, np.stack(pixels))
        entries, tails = zip(*(self._output(outputs, one) for one in asked.decoded.asked["outputs"]), strict=True)
        values: dict[str, Any] = {"model_name": self._name(tensor), "model_version": _VERSION, "outputs": entries}
        if "id" in asked.decoded.asked:
            values["id"] = asked.decoded.asked["id"]
        tail = b"".join(tails)
        if not tail:
            return answer(values)
        head = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        return Response(head + tail, headers={_HEADER_LENGTH: str(len(head))}, media_type="application/octet-stream")

    def _output(self, outputs: Outputs, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """One output as an entry of the JSON, and its bytes where these are asked for."""
        values = np.ascontiguousarray(getattr(outputs, asked["name"]), np.float32)
        entry: dict[str, Any] = {"name": asked["name"], "datatype": "FP32", "shape": list(values.shape)}
        if asked["classification"]:
            ranked = self._ranked(values, asked["classification"])
            entry |= {"datatype": "BYTES", "shape": [len(ranked), len(ranked[0])]}
            data: list[Any] = [text for row in ranked for text in row]
            tail = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in data)
        else:
            data, tail = values.ravel().tolist(), values.astype("<f4").tobytes()
        if asked["binary"]:
            return {**entry, "parameters": {"binary_data_size": len(tail)}}, tail
        return {**entry, "data": data}, b""

    def _ranked(self, values: Float[np.ndarray, "B L"], top: int) -> list[list[str]]:
        """The best classes of each row, as value:index:label."""
        labels = self._service.model.labels
        order = np.argsort(-values, axis=1, kind="stable")[:, : min(top, len(labels))]
        return [[f"{row[i]:f}:{i}:{labels[i]}" for i in best] for row, best in zip(values, order, strict=True)]

    def _name(self, tensor: bool) -> str:
        return f"{self._service.name}-tensor" if tensor else self._service.name

    def _is_tensor(self, request: Request) -> bool:
        """Whether the model of the address is the one that takes pixels. Raises Failure where it is neither."""
        asked, version = request.path_params["model"], request.path_params.get("version", _VERSION)
        for tensor in (False, True):
            if asked == self._name(tensor) and version == _VERSION:
                return tensor
        expected = f"{self._name(False)} or {self._name(True)}, version {_VERSION}"
        raise Failure(404, "There is no such model.", got=f"{asked}, version {version}", expected=expected)
