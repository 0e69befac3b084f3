"""Bytes: what stays under the root, what goes from stage to stage, and what a worker holds in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from simpipe.config import Config
from simpipe.index.planner import bytes_a_row
from simpipe.plan.encoders import weights_of
from simpipe.plan.shape import Shape
from simpipe.plan.terms import Terms, backend_floor
from simpipe.plan.workload import Workload

_ITEMSIZE = {"float32": 4, "float16": 2, "int8": 1}
_LABEL = 8  # bytes of a label with its offset
_ELEMENT = 1024  # of a descriptor that goes through Beam
_OFFSET = 4  # of a string in Arrow
_MIB = 1 << 20
_CACHE = 4 << 30  # of a searcher, at most


def bytes_terms(config: Config, workload: Workload, shape: Shape) -> dict[str, Terms]:
    """What the bytes under the root grow with, by kind; terms `bytes` are known to the byte, or nearly so."""
    itemsize, backend = _ITEMSIZE[config.build.storage], config.build.backend
    kinds: dict[str, Terms] = {}
    if shape.has_encoder:
        assert workload.shape is not None
        kinds["examples"] = {"items": shape.items, "bytes": float(shape.items * workload.example_bytes)}
        kinds["encoder"] = {"one": 1.0, "bytes": 4.0 * weights_of(config.train.encoder, workload.shape)}
    rows = float(shape.rows)
    partitions: Terms = {"rows": rows, "bytes": rows * shape.dim * itemsize}
    small = shape.mean < backend_floor(backend)
    if backend.kind == "scann" and not small:
        from simpipe.index.scann_backend import derived

        how = derived(backend, round(shape.mean), dim=shape.dim, distance="cosine", storage=config.build.storage)
        partitions["scann_leaves"] = float(how.leaves * shape.partitions * shape.dim * 4)
        if how.hashed:
            partitions["scann_hashes"] = rows * shape.dim / 4
    elif backend.kind in ("nmslib", "faiss") and not small:
        partitions[f"{backend.kind}_rows"] = rows
        partitions[f"{backend.kind}_links"] = rows * getattr(backend, "m", 0) * 8
        partitions[f"{backend.kind}_vectors"] = rows * shape.dim * 4
    return {
        **kinds,
        "embeddings": {"items": shape.items, "values": float(shape.items * shape.dim * 4)},
        "partitions": partitions,
        "store": {"items": shape.indexed},
        "digests": {"items": shape.indexed},
        "profile": {"bytes": _profile(config, shape)},
        "measured": {"one": 1.0, "queries": shape.calibrated},
    }


def _profile(config: Config, shape: Shape) -> float:
    """The router, the sampled queries, and what each partition found for them."""
    k, steps = config.build.profile.k, 14 if config.build.backend.kind in ("nmslib", "faiss") else 18
    if config.build.backend.kind == "exact":
        steps = 1
    router = shape.centroids * (4 * shape.dim + 8)
    probe = shape.probe * (4 * shape.dim + 8 + 4 * shape.partitions)
    return float(router + probe + shape.probe * k * 12 * shape.partitions + steps * shape.pairs * k)


def moved(config: Config, workload: Workload, shape: Shape) -> dict[str, tuple[float, float]]:
    """Bytes that go from stage to stage: in files of the work folder, and in elements of Beam, by verb."""
    name = shape.id_bytes + _OFFSET
    routed = shape.rows * (name + _LABEL + 4 * shape.dim)
    stored = shape.indexed * (name + _LABEL + 4 + 4 + 8 + 16) + shape.held_out * (name + 12)
    sample = (shape.sampled + 1.2 * shape.probe) * (4 * shape.dim + name)
    files = shape.files + shape.partitions + shape.store_files
    out = {
        "build": (float(routed + stored + sample), float(files * _ELEMENT)),
        "calibrate": (_asked(config, shape, shape.calibrated, deep=0, exact=0, k=config.calibrate.depth), 0.0),
        "evaluate": (
            _asked(config, shape, shape.evaluated, deep=shape.deep, exact=shape.exact, k=config.evaluate.k),
            0.0,
        ),
    }
    if shape.has_encoder:
        out["shard"] = (float(shape.items * (workload.example_bytes + name + _LABEL)), float(shape.blocks * _ELEMENT))
        out["embed"] = (0.0, float(shape.blocks * _ELEMENT))
    else:
        out["import"] = (0.0, float(shape.blocks * _ELEMENT))
    return out


def _asked(config: Config, shape: Shape, queries: int, *, deep: int, exact: int, k: int) -> float:
    """Prepared queries, and 8 bytes a candidate of each partition that was asked."""
    prepared = queries * (4 * shape.dim + shape.id_bytes + _OFFSET + _LABEL + 9)
    bits = queries * shape.partitions / 8 * (2 if deep else 1)
    found = queries * shape.probes * 8 * (k + 1 + (deep + 1 if deep else 0))
    return float(prepared + bits + found + exact * shape.partitions * 8 * (config.evaluate.k + 1))


def memory(config: Config, workload: Workload, shape: Shape, base: Mapping[Any, float]) -> dict[str, float]:
    """MiB of a worker process that does the work of one verb, pages of mapped files left out.

    Args:
      base: what a process takes before it works, `beam` and `tensorflow`.
    """
    dim, name = shape.dim, shape.id_bytes + _OFFSET
    beam = base["beam"]
    vector = 4 * dim
    block = min(shape.items, 65_536) * (6 * vector + 4 * name)
    # Vectors and copies of them, and a block of distances to all centroids.
    fitting = shape.sampled * 3 * vector + 4 * 512 * shape.centroids + (100 * _MIB if shape.tried else 0)
    store = shape.indexed / shape.store_files * 3 * (name + _LABEL + 48)
    partition = shape.largest * bytes_a_row(config.build.backend, dim)
    loaded = shape.largest * (vector + 16)
    found = {
        name: config.search.block * (shape.partitions if exact else math.ceil(shape.probes)) * (k + 1) * 24
        for name, exact, k in (
            ("calibrate", False, config.calibrate.depth),
            ("evaluate", True, max(shape.deep, config.evaluate.k)),
        )
    }
    out = {
        "build": beam + max(block, fitting, store, partition) / _MIB,
        "calibrate": beam + (loaded + 4 * found["calibrate"] + 64 * _MIB) / _MIB,
        "evaluate": beam + (loaded + 4 * found["evaluate"] + 128 * _MIB) / _MIB,
    }
    if shape.has_encoder:
        example = workload.example_bytes
        shards = max(1, shape.shards)
        out["shard"] = base["tensorflow"] + (shape.items / shards * (example + name) * 2 + 64 * _MIB) / _MIB
        out["train"] = base["tensorflow"] + (config.train.sampler.open_blocks * 4 + 256)
        out["embed"] = base["tensorflow"] + (config.embed.batch_size * example * 64) / _MIB + 128
    else:
        out["import"] = beam + block / _MIB
    # The report asks the release as a searcher does, which keeps so much of it loaded.
    cached = min(_CACHE, shape.rows * (vector + 50)) / _MIB
    out |= {"report": base["report"] + cached, "gate": beam, "publish": beam}
    return {verb: float(np.round(value, 1)) for verb, value in out.items()}
