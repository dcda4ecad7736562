"""The addresses of the server: ours, that of Hugging Face, and the page. Those of `/v2` are in `inference_protocol.py`.

docs/serving.md describes them for clients, `openapi.py` for programs.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router

from vitrail.predictor.answers import Answer
from vitrail.serving import metrics, openapi, page_files
from vitrail.serving.bodies import MOST_RANKED
from vitrail.serving.endpoints import Endpoint, Failure, answer, route
from vitrail.serving.inference_protocol import InferenceProtocol
from vitrail.serving.service import Asked, Service, unreadable

_TOP = 5


def routes_of(service: Service) -> Router:
    """The application without its guard."""
    own = _Own(service)
    table: list[BaseRoute] = [
        route("/predict", own.predict, "POST"),
        route("/", own.hugging_face, "POST"),
        route("/model", own.model, "GET"),
        route("/openapi.json", own.openapi, "GET"),
        route("/livez", own.livez, "GET"),
        route("/readyz", own.readyz, "GET"),
        route("/metrics", own.metrics, "GET"),
        *InferenceProtocol(service).routes(),
    ]
    if service.options.explain:
        table.append(route("/explain", own.explain, "POST"))
    if service.options.page:
        files = page_files.page_files()
        table[1] = route("/", _either(own.hugging_face, _page(files[""])), "POST", "GET")
        table += [route(f"/static/{name}", _static(file), "GET") for name, file in files.items() if name]
    return Router(table, redirect_slashes=False, default=_nowhere)


class _Own:
    """The endpoints that are about the model."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._openapi = openapi.document(service.card())

    async def predict(self, request: Request) -> Response:
        """Images to ranked labels, with the keys of `vitrail predict --json`."""
        service = self._service
        top = _top(request, "top")
        asked = await service.asked(request, "predict")
        answers = await service.ranked(request, asked, top or asked.decoded.asked.get("top", _TOP))
        if not answers:
            raise unreadable(asked.decoded)
        return answer(
            {
                "model": {"name": service.name, "version": service.version},
                "predictions": [{"index": index, **_prediction(one)} for index, one in sorted(answers.items())],
                "errors": [{"index": index, "error": error} for index, error, _ in sorted(asked.decoded.errors)],
                "seconds": _seconds(asked),
            }
        )

    async def explain(self, request: Request) -> Response:
        """One image to the map of its most probable class."""
        asked = await self._service.asked(request, "predict")
        if asked.decoded.errors:
            raise unreadable(asked.decoded)
        if len(asked.decoded.pixels) != 1:
            raise Failure(400, "One image at a time.", got=f"{len(asked.decoded.pixels)} images", reason="body")
        return answer(await self._service.explained(request, asked))

    async def hugging_face(self, request: Request) -> Response:
        """The contract of Hugging Face's image classification: an image to [{label, score}]."""
        asked = await self._service.asked(request, "huggingface")
        answers = await self._service.ranked(request, asked, asked.decoded.asked.get("top", _TOP))
        if not answers:
            raise unreadable(asked.decoded)
        return answer([{"label": one.label, "score": one.probability} for one in answers[0].top])

    async def model(self, _: Request) -> Response:
        """The model and the limits."""
        return answer(self._service.card())

    async def openapi(self, _: Request) -> Response:
        """This description for programs."""
        return answer(self._openapi)

    async def livez(self, _: Request) -> Response:
        """Whether the process works; one that does not is to be started anew."""
        if not self._service.is_alive:
            raise Failure(503, "The model does not answer.")
        return answer({"live": True})

    async def readyz(self, _: Request) -> Response:
        """Whether requests are welcome."""
        if not self._service.is_ready:
            raise Failure(503, "The server is ending." if self._service.is_draining else "No decoder is ready.")
        return answer({"ready": True})

    async def metrics(self, _: Request) -> Response:
        """Figures for Prometheus."""
        return Response(self._service.metrics.text(), headers={"content-type": metrics.CONTENT_TYPE})


def _prediction(one: Answer) -> dict[str, Any]:
    top = [{"label": ranked.label, "probability": ranked.probability} for ranked in one.top]
    label = "unknown" if one.is_unknown else top[0]["label"]
    return {"label": label, "probability": top[0]["probability"], "known": not one.is_unknown, "top": top}


def _seconds(asked: Asked) -> dict[str, float]:
    return {stage: round(seconds, 6) for stage, seconds in asked.seconds.items()}


def _top(request: Request, name: str) -> int | None:
    """The number in the query; None: none is there. Raises Failure."""
    given = request.query_params.get(name)
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= MOST_RANKED:
        expected = f"an integer from 1 to {MOST_RANKED}"
        raise Failure(400, f"{name} has a wrong value.", got=given, expected=expected, reason="body")
    return int(given)


def _either(post: Endpoint, get: Endpoint) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await (post if request.method == "POST" else get)(request)

    return endpoint


def _page(file: page_files.PageFile) -> Endpoint:
    headers = {**page_files.HEADERS, "content-type": file.content_type, "cache-control": "no-cache"}

    async def endpoint(_: Request) -> Response:
        return Response(file.content, headers=headers)

    return endpoint


def _static(file: page_files.PageFile) -> Endpoint:
    headers = {**page_files.HEADERS, "content-type": file.content_type, "cache-control": page_files.FOREVER}

    async def endpoint(_: Request) -> Response:
        return Response(file.content, headers=headers)

    return endpoint


async def _nowhere(*_: object) -> None:
    raise Failure(404, "There is no such address.", do="See /openapi.json for those there are.")
