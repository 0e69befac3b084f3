"""The OpenAPI document: bodies of queries, answers of refusals, and the limits that this server has."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from simpipe.config.serve import ServeConfig
from simpipe.serve.answer_models import ErrorAnswer
from simpipe.serve.requests import LookupRequest, MatchRequest

_MODELS = {"lookup": LookupRequest, "match": MatchRequest}
_REFUSALS = {
    "400": "the query cannot be answered",
    "404": "no such item, release or picture",
    "405": "another method is meant",
    "413": "too large, or too many queries",
    "415": "no JSON",
    "422": "not as the schema says",
    "429": "the queue is full; retry-after says when to ask again",
    "503": "no release answers at the moment",
    "504": "no answer in time",
}
_LISTS = ("vectors", "ids", "images", "names")
_HERE = "#/components/schemas/"


def describe(app: FastAPI, settings: ServeConfig) -> None:
    """Gives an application its document, made when it is first asked for."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(_document(app, settings))
        return made

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation says


def _document(app: FastAPI, settings: ServeConfig) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
    schemas = found["components"]["schemas"]
    for model in (ErrorAnswer, *_MODELS.values()):
        schema = model.model_json_schema(ref_template=_HERE + "{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    for model in _MODELS.values():
        _limit(schemas[model.__name__], settings)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    refused = {"application/json": {"schema": {"$ref": _HERE + "ErrorAnswer"}}}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            operation["responses"] = {
                **{status: each for status, each in operation["responses"].items() if status == "200"},
                **{status: {"description": text, "content": refused} for status, text in _REFUSALS.items()},
            }
            verb = path.removeprefix("/v1/")
            if method == "post" and verb in _MODELS:
                schema = {"$ref": _HERE + _MODELS[verb].__name__}
                operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def _limit(schema: dict[str, Any], settings: ServeConfig) -> None:
    """This server's limits; and that exactly one of three asks."""
    schema["properties"]["k"]["maximum"] = settings.max_k
    for name in _LISTS:
        for kind in schema["properties"][name]["anyOf"]:
            if kind.get("type") == "array":
                kind["maxItems"] = settings.max_queries
    asks = ("vectors", "ids", "images")
    schema["oneOf"] = [{"required": [name], "properties": {name: {"type": "array"}}} for name in asks]


_ABOUT = """Answers from a published release of a similarity index. Every answer is JSON (but pictures, metrics and the page);
every refusal is `{"error": {"code", "message", "cure"}, "request_id"}`."""
