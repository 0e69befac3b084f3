"""What the CPU time of each verb grows with.

A verb takes the sum of its terms, each times a coefficient of the calibration file: `one` is the fixed part, the others count
work: items, values (items x dim), multiply-adds of a loop. Terms of a backend carry its name, since libraries differ.
"""

from __future__ import annotations

import math

from simpipe.config import Config
from simpipe.config.index import Backend
from simpipe.index.router import fine_clusters_of
from simpipe.plan.encoders import multiply_adds
from simpipe.plan.shape import Shape
from simpipe.plan.workload import Workload

Terms = dict[str, float]

_CALL, _SCALE, _POWER = 3.0, 0.006, 0.6  # of a query in a partition, see `index.planner`
_AFFINE_SAMPLE = 50_000  # see `index.router`


def cpu_terms(config: Config, workload: Workload, shape: Shape) -> dict[str, Terms]:
    """The terms of each verb, in the order of the line."""
    values = float(shape.items * shape.dim)
    first: dict[str, Terms] = {}
    if shape.has_encoder:
        first = _with_encoder(config, workload, shape)
    else:
        first["import"] = {"one": 1.0, "items": shape.items, "values": values}
    return {
        **first,
        "build": _build(config, shape),
        "calibrate": {
            "one": 1.0,
            "queries": shape.calibrated,
            "values": values,
            **_asked(config.build.backend, shape, shape.calibrated),
        },
        "evaluate": {
            "one": 1.0,
            "items": shape.items,
            "queries": shape.evaluated,
            "exact": float(shape.exact) * shape.rows * _a_distance(shape.dim),
            **_asked(config.build.backend, shape, shape.evaluated),
        },
        "report": {"one": 1.0, "items": shape.items, "values": values, "projected": _projected(config, shape)},
        "gate": {"one": 1.0, "values": values},
        "publish": {"one": 1.0, "values": values},
    }


def _with_encoder(config: Config, workload: Workload, shape: Shape) -> dict[str, Terms]:
    assert workload.shape is not None
    train, items = config.train, float(shape.items)
    batch = train.sampler.classes_per_batch * train.sampler.examples_per_class
    steps = train.steps_per_epoch or math.ceil(shape.indexed / batch)
    seen = float(train.epochs * steps * batch)
    work = multiply_adds(config.train.encoder, workload.shape)
    return {
        "shard": {"one": 1.0, "items": items, "bytes": items * workload.example_bytes},
        "train": {"one": 1.0, "examples": seen, "multiply_adds": seen * work},
        "embed": {"one": 1.0, "items": items, "multiply_adds": items * work * (1 + train.encoder.views)},
    }


def _build(config: Config, shape: Shape) -> Terms:
    indexed, dim, backend = float(shape.indexed), shape.dim, config.build.backend
    # Routing, fitting packed routers and the exact neighbors of the search profile are distances in blocks of matrix products.
    compared = indexed * shape.centroids + float(shape.probe) * shape.rows
    fitted = {"packed": 0, "kmeans": 0}
    for router in shape.tried:
        fitted[router.kind] += shape.sampled
        if router.kind == "packed":
            compared += float(shape.sampled + _AFFINE_SAMPLE) * fine_clusters_of(router, router.partitions, shape.sampled)
    return {
        "one": 1.0,
        "items": indexed,
        "values": indexed * dim,
        "distances": compared * _a_distance(dim),
        "fits": float(bool(shape.tried)),
        "fit_packed": float(fitted["packed"]),
        "fit_kmeans": float(fitted["kmeans"]),
        **_indexed(backend, shape),
    }


def _a_distance(dim: int) -> float:
    """What a distance in a block of products takes, in units of one of dim 64: half of it is reading the result."""
    return (1 + dim / 64) / 2


def _indexed(backend: Backend, shape: Shape) -> Terms:
    """Building the partitions, and asking them with each setting of the ladder for the search profile."""
    rows, dim = float(shape.rows), shape.dim
    if backend.kind == "exact" or shape.mean < backend_floor(backend):
        return {"exact_profile": shape.pairs * shape.mean * _a_distance(dim)}
    if backend.kind == "scann":
        from simpipe.index.scann_backend import derived

        how = derived(backend, round(shape.mean), dim=dim, distance="cosine")
        kind = "scann_hash" if how.hashed else "scann"
        return {
            f"{kind}_rows": rows,
            f"{kind}_tree": rows * how.leaves * dim,
            f"{kind}_profile": shape.pairs * shape.mean * _a_distance(dim),
        }
    depth = math.log2(max(2.0, shape.mean))
    wide = backend.ef_construction * backend.m
    return {
        f"{backend.kind}_graph": rows * depth * wide * _a_distance(dim),
        f"{backend.kind}_profile": shape.pairs * depth * _a_distance(dim),
    }


def _projected(config: Config, shape: Shape) -> float:
    """Items in the report's map: of twenty classes, where there are more; counted as a hundredth of all items."""
    return float(min(config.report.projection_items, shape.items / 100))


def _asked(backend: Backend, shape: Shape, queries: int) -> Terms:
    """Searching the partitions, as deep as the evaluation does."""
    asked, dim = queries * shape.probes, shape.dim
    if backend.kind == "exact" or shape.mean < backend_floor(backend):
        return {"exact_asked": asked * shape.mean * _a_distance(dim)}
    if backend.kind == "scann":
        return {"scann_asked": asked * (_CALL + _SCALE * shape.mean**_POWER * dim / 64)}
    return {f"{backend.kind}_asked": asked * math.log2(max(2.0, shape.mean)) * _a_distance(dim)}


def backend_floor(backend: Backend) -> int:
    """Rows below which a partition is scanned whole, whatever the backend."""
    return 0 if backend.kind == "exact" else backend.exact_below
