"""The server's description for programs, OpenAPI 3.1, made from the limits in force."""

from collections.abc import Mapping
from typing import Any

from vitrail import __version__
from vitrail.serving.bodies import MOST_RANKED

_FAILURES = {
    400: "The request is malformed.", 401: "The token is missing or wrong.",
    403: "The host or the origin is a stranger's.", 404: "There is no such address or model.",
    405: "The address does not take this method.", 408: "The request did not come in time.",
    413: "The body is too large.", 415: "The body is nothing that is read.",
    422: "The image is damaged, or has too many pixels.", 431: "The headers are too large.",
    500: "A fault of the server.", 503: "The server is busy, starting or ending; try again after Retry-After.",
    504: "The server did not come to the request in time.",
}  # fmt: skip
_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4//8/AAX+Av4zEpUUAAAAAElFTkSuQmCC"
"""A PNG file of one white pixel."""
_BASE64 = {"type": "string", "contentEncoding": "base64", "examples": [_PIXEL]}
_ANY = {"type": "object"}
Json = dict[str, Any]


def document(card: Mapping[str, Any]) -> Json:
    """The description.

    Args:
        card: what `/model` says.
    """
    paths = {**_own(card), **_v2(card["name"], card["limits"]["max_images"])}
    if card["explain"]:
        answer = _object(label=_TEXT, probability=_NUMBER, grid=_list(_WHOLE), values=_list(_NUMBER))
        paths["/explain"] = {"post": _operation("Where in an image its class is read.", answer, _image())}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"vitrail: {card['name']}", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Error": _error()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _own(card: Mapping[str, Any]) -> Json:
    ranked = _list(_object(label=_TEXT, probability=_NUMBER))
    prediction = _object(index=_WHOLE, label=_TEXT, probability=_NUMBER, known={"type": "boolean"}, top=ranked)
    predicted = _object(
        model=_object(name=_TEXT, version=_TEXT), predictions=_list(prediction),
        errors=_list(_object(index=_WHOLE, error=_TEXT)), seconds=_object(queue=_NUMBER, decode=_NUMBER, model=_NUMBER),
    )  # fmt: skip
    top = {"type": "integer", "minimum": 1, "maximum": MOST_RANKED}
    images = {"type": "array", "items": _BASE64, "minItems": 1, "maxItems": card["limits"]["max_images"]}
    several: Json = {**_object(images=images), "additionalProperties": False}
    several["properties"]["top"] = {**top, "description": "Classes to rank."}
    parameters = {"type": "object", "properties": {"top_k": {**top, "type": ["integer", "null"]}}}
    one = {"type": "object", "properties": {"inputs": _BASE64, "parameters": parameters}, "required": ["inputs"]}
    query = {"name": "top", "in": "query", "schema": top, "description": "Classes to rank."}
    answers = {
        "/predict": {"post": {**_operation("Classify images.", predicted, _image(several)), "parameters": [query]}},
        "/": {
            "post": _operation(
                "Classify an image, as Hugging Face does.", _list(_object(label=_TEXT, score=_NUMBER)), _image(one)
            )
        },
        "/model": {"get": _operation("The model, and the limits.", _ANY)},
        "/openapi.json": {"get": _operation("This description.", _ANY)},
        "/livez": {"get": _operation("Whether the process works.", _object(live={"type": "boolean"}))},
        "/readyz": {"get": _operation("Whether requests are welcome.", _object(ready={"type": "boolean"}))},
        "/metrics": {"get": _operation("Figures for Prometheus.", _TEXT, media="text/plain")},
    }
    return answers


def _v2(name: str, max_images: int) -> Json:
    image = _object(name={"const": "image"}, datatype={"enum": ["BYTES", "UINT8"]}, shape=_list(_WHOLE))
    image["properties"] |= {"data": {"type": "array"}, "parameters": _ANY}
    image["examples"] = [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_PIXEL]}]
    output = {"type": "object", "properties": {"name": {"enum": ["probabilities", "logits"]}, "parameters": _ANY}}
    infer = _object(inputs={"type": "array", "items": image, "minItems": 1, "maxItems": 1})
    infer["properties"] |= {"id": _TEXT, "outputs": {"type": "array", "items": output, "maxItems": 2}}
    infer["properties"]["parameters"] = _ANY
    infer["description"] = f"At most {max_images} images."
    paths: Json = {
        "/v2": {"get": _operation("The server.", _object(name=_TEXT, version=_TEXT, extensions=_list(_TEXT)))},
        "/v2/health/live": {"get": _operation("As /livez.", _object(live={"type": "boolean"}))},
        "/v2/health/ready": {"get": _operation("As /readyz.", _object(ready={"type": "boolean"}))},
    }
    content = {"application/json": {"schema": infer}, "application/octet-stream": {"schema": {}}}
    for names in (("model",), ("model", "version")):
        path = "/v2/models/{model}" + "/versions/{version}" * (len(names) - 1)
        known = {"model": [name, f"{name}-tensor"], "version": ["1"]}
        which = [{"name": one, "in": "path", "required": True, "schema": {"enum": known[one]}} for one in names]
        paths[path] = {"get": _operation("Inputs and outputs.", _object(name=_TEXT, inputs=_list(_ANY)))}
        paths[f"{path}/ready"] = {"get": _operation("As /readyz.", _object(name=_TEXT, ready={"type": "boolean"}))}
        answer = _object(model_name=_TEXT, model_version=_TEXT, outputs=_list(_ANY))
        operation = _operation("Images to probabilities.", answer, {"required": True, "content": content})
        operation["responses"]["200"]["content"]["application/octet-stream"] = {"schema": {}}
        paths[f"{path}/infer"] = {"post": operation}
        for below in (path, f"{path}/ready", f"{path}/infer"):
            paths[below]["parameters"] = which
    return paths


def _operation(summary: str, answer: Json, body: Json | None = None, media: str = "application/json") -> Json:
    failure = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: Json = {"200": {"description": "The answer.", "content": {media: {"schema": answer}}}}
    responses |= {str(status): {"description": text, "content": failure} for status, text in _FAILURES.items()}
    return {"summary": summary, "responses": responses, **({"requestBody": body} if body else {})}


def _image(json_form: Json | None = None) -> Json:
    content: Json = {"image/*": {"schema": {}}, "application/octet-stream": {"schema": {}}}
    if json_form:
        content["application/json"] = {"schema": json_form}
    return {"required": True, "content": content, "description": "An image file as it is; its content says which kind."}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _error() -> Json:
    maybe = {"type": ["string", "null"]}
    values = {"error": _TEXT, "got": maybe, "expected": maybe, "do": maybe, "request_id": _TEXT}
    return {"type": "object", "properties": values, "required": ["error", "request_id"]}
