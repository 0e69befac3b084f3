"""A request's JSON to what is asked for; all of it is checked here."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from simpipe.config.serve import ServeConfig
from simpipe.serve.jobs import Job, Verb
from simpipe.serve.refusals import RefusedError
from simpipe.serve.requests import LONGEST_ID, LookupRequest, MatchRequest, QueryRequest

_MODELS: Mapping[str, type[QueryRequest]] = {"lookup": LookupRequest, "match": MatchRequest}
_OPTIONS = ("cutpoint", "matcher", "group", "by_label", "target_recall", "exact", "where", "filter", "metadata")
_ASKS = ("vectors", "ids", "images")
_DEEPEST = 16  # levels of a filter
_SEE = "see /openapi.json"


@dataclass(frozen=True)
class Asked:
    """A request that may be asked of a release.

    Attributes:
      job: its work; of images, without vectors. images: files to embed first. release: None: the live one. timeout: seconds.
    """

    job: Job
    images: tuple[bytes, ...]
    release: str | None
    timeout: float


def parse(verb: Verb, body: bytes, settings: ServeConfig) -> Asked:
    """What a body asks for.

    Raises:
      RefusedError: it is no JSON (400), not as the schema says (422), or asks for too much (413, 422).
    """
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        what = "empty" if not body else f"no JSON ({error})"
        raise RefusedError(400, "bad_json", f"the body is {what}", "send one JSON object, as UTF-8") from None
    if not isinstance(raw, dict):
        raise _wrong("the body is no JSON object", "send an object with `vectors`, `ids` or `images`")
    given = [name for name in _ASKS if raw.get(name) is not None]
    if len(given) != 1:
        named = " and ".join(given) or "none of vectors, ids and images"
        raise _wrong(f"the body has {named}", "give exactly one of them")
    ask = given[0]
    asking = raw.pop(ask)
    if not isinstance(asking, list) or not asking:
        raise _wrong(f"{ask}: not a list of at least one", _SEE)
    if len(asking) > settings.max_queries:
        cure = f"ask for {settings.max_queries} at a time (serve.max_queries)"
        raise RefusedError(413, "too_many_queries", f"{ask}: {len(asking)} of them", cure)
    request = _validated(verb, raw)
    if request.k > settings.max_k:
        raise _wrong(f"k: {request.k} is above {settings.max_k}", f"ask for at most {settings.max_k} neighbors (serve.max_k)")
    names = request.names
    if names is not None and (ask == "ids" or len(names) != len(asking)):
        what = "given beside ids" if ask == "ids" else f"{len(names)} of them for {len(asking)} {ask}"
        raise _wrong(f"names: {what}", "give one name a vector or image")
    vectors = ids = None
    images: tuple[bytes, ...] = ()
    if ask == "vectors":
        vectors = checked_vectors(asking, words=b"true" in body or b"false" in body)
    elif not all(type(item) is str for item in asking):
        raise _wrong(f"{ask}: not all of them are strings", _SEE)
    elif ask == "ids":
        if max(map(len, asking)) > LONGEST_ID:
            raise _wrong(f"ids: one has more than {LONGEST_ID} characters", _SEE)
        ids = asking
    else:
        images = tuple(_decoded(number, text) for number, text in enumerate(asking))
    job = Job(verb, vectors=vectors, ids=ids, names=names, k=request.k, options=_options(request, settings))
    timeout = settings.timeout_seconds if request.timeout is None else min(request.timeout, settings.timeout_seconds)
    return Asked(job, images, request.release, timeout)


def _validated(verb: str, raw: Any) -> QueryRequest:
    try:
        request = _MODELS[verb].model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        said = "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in found[:10])
        raise _wrong(said, _SEE) from None
    if request.filter is not None and _is_deeper(request.filter, _DEEPEST):
        raise _wrong(f"filter: deeper than {_DEEPEST} levels", "see the filters that the documentation lists")
    return request


def _options(request: QueryRequest, settings: ServeConfig) -> dict[str, Any]:
    """What of the request is not as by default. Without any say, the search is as the server is set."""
    given = {name: value for name in _OPTIONS if (value := getattr(request, name, None)) is not None and value is not False}
    if settings.target_recall is not None and not request.exact:
        given.setdefault("target_recall", settings.target_recall)
    return given


def checked_vectors(rows: list[Any], *, words: bool = True) -> np.ndarray:
    """Vectors as float32[n, dim].

    Args:
      rows: of JSON. words: `true` or `false` may be among the numbers, so each is looked at.

    Raises:
      RefusedError: they are no lists of finite numbers of one length.
    """
    if not all(type(row) is list for row in rows):
        raise _wrong("vectors: not all of them are lists of numbers", _SEE)
    length = len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != length or not length:
            raise _wrong(
                f"vectors: vector {number} has {len(row)} numbers, vector 0 {length}", "give all of them the same length"
            )
    if words and bool in set(map(type, chain.from_iterable(rows))):
        raise _wrong("vectors: true or false among the numbers", "give numbers only")
    try:
        values = np.array(rows)
    except (ValueError, OverflowError, TypeError):  # lists within
        values = np.empty(0, object)
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise _wrong("vectors: not all of them are lists of numbers", _SEE)
    with np.errstate(over="ignore"):
        vectors = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise RefusedError(400, "bad_query", f"vectors: vector {bad[0]} holds numbers beyond float32", "give finite numbers")
    return vectors


def _decoded(number: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(f"images: image {number} is no base64", "encode the PNG or JPEG file as base64, without a prefix") from None


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in inner))


def _wrong(message: str, cure: str) -> RefusedError:
    return RefusedError(422, "schema", message, cure)
