"""The arithmetic of `simpipe plan`: against the real encoders, files and planner, and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpipe.config import parse_config
from simpipe.config.index import AutoRouter
from simpipe.config.models import EncoderConfig
from simpipe.config.plan import PriceTable
from simpipe.data.examples import InputSpec
from simpipe.errors import ConfigError, SourceError
from simpipe.grouped import read_group
from simpipe.index.distance import prepare
from simpipe.index.planner import expect_router, plan_router
from simpipe.index.route import RouteSpec, route_file
from simpipe.index.router import Router
from simpipe.plan.calibration import Calibration
from simpipe.plan.encoders import multiply_adds, weights_of
from simpipe.plan.estimate import make_estimate
from simpipe.plan.price import Machine, Work, cost_of
from simpipe.plan.shape import shape_of
from simpipe.plan.sizes import moved
from simpipe.plan.workload import Workload, workload_of

MACHINE = Machine("n2-standard-4", 4, 16.0, 100)
PRICES = PriceTable(vcpu_hour=0.5, gb_hour=0.25, disk_gb_hour=0.01, shuffle_gb=2.0)


def vectors_config(path: str = "x.npy", **parts):
    return parse_config({"name": "x", "root": "r", "source": {"kind": "vectors", "path": path}, **parts})


# --- workload -----------------------------------------------------------------------------------------------------


def test_a_source_says_how_many_and_of_what_dim(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((123, 7), np.float32))
    found = workload_of(vectors_config(str(tmp_path / "v.npy")))
    assert (found.items, found.dim, found.id_bytes) == (123, 7, len("v-000000000"))
    assert workload_of(vectors_config(str(tmp_path / "v.npy")), items=5).items == 5
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 5, 28, 20), np.uint8), y=np.zeros((4, 5)))
    config = parse_config({"name": "x", "root": "r", "source": {"kind": "npz", "path": str(tmp_path / "a.npz")}})
    assert workload_of(config) == Workload(20, 64, (28, 20, 1), 560)
    digits = parse_config({"name": "x", "root": "r", "source": "digits", "train": {"encoder": {"dim": 32}}})
    assert workload_of(digits) == Workload(1797, 32, (8, 8, 1), 64)
    assert workload_of(digits, example_bytes=256).shape == (16, 16, 1)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--items N and --dim D"):
        workload_of(vectors_config(str(tmp_path / "none.npy")))
    with pytest.raises(ConfigError, match=r"give --dim D"):
        workload_of(vectors_config(str(tmp_path / "none.npy")), items=4)
    folder = parse_config({"name": "x", "root": "r", "source": {"kind": "folder", "path": "p", "resize": [8, 8]}})
    with pytest.raises(ConfigError, match="--items"):
        workload_of(folder)
    assert workload_of(folder, items=9) == Workload(9, 64, (8, 8, 3), 192)
    with pytest.raises(ConfigError, match=r"train\.encoder\.dim"):
        workload_of(folder, items=9, dim=8)
    (tmp_path / "a.npz").write_bytes(b"PK no archive")
    config = parse_config({"name": "x", "root": "r", "source": {"kind": "npz", "path": str(tmp_path / "a.npz")}})
    with pytest.raises(SourceError):
        workload_of(config)


# --- shape ----------------------------------------------------------------------------------------------------------


def test_the_planner_is_foreseen_where_vectors_fall_into_clusters():
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(300, 16))
    sample = prepare((centres[rng.integers(300, size=8000)] + 0.05 * rng.normal(size=(8000, 16))).astype(np.float32), "cosine")
    config = AutoRouter(kind="auto", sample=8000)
    for items in (10_000, 100_000, 1_000_000):
        found = expect_router(config, items=items, least=1, dim=16, is_exact=False)
        planned = plan_router(sample, config, items=items, least=1, is_exact=False, seed=7)
        assert found.router.partitions == planned.router.partitions
        tried = {(each.kind, each.partitions) for each in found.tried}
        assert tried == {(each.router, each.partitions) for each in planned.candidates if each.router != "hash"}


@given(items=st.integers(1, 10**9), dim=st.integers(1, 1024), fraction=st.floats(0, 0.5), workers=st.integers(1, 50))
def test_a_shape_counts_every_item_once(items, dim, fraction, workers):
    config = vectors_config(queries={"fraction": fraction}, build={"workers": workers})
    shape = shape_of(config, Workload(items, dim))
    assert shape.held_out + shape.indexed >= shape.items
    assert shape.indexed == max(1, items - round(items * fraction))
    assert shape.blocks == math.ceil(items / 65_536)
    assert shape.files == 2 * shape.blocks
    assert shape.partitions >= workers or shape.partitions == 1 or items < workers
    assert shape.largest * shape.partitions >= shape.rows - shape.partitions
    assert shape.exact <= shape.evaluated <= shape.held_out


# --- encoders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("conv4", (28, 28, 1)), ("conv4", (13, 9, 3)), ("resnet8", (28, 28, 1)), ("resnet8", (64, 50, 3)), ("mlp", (17,))],
)
def test_weights_and_work_are_those_of_the_real_encoder(architecture, shape):
    import keras

    from simpipe.architectures import build_encoder

    config = EncoderConfig(architecture=architecture, filters=6, dim=5)
    image = len(shape) == 3
    spec = InputSpec(name="x", shape=shape, dtype="uint8" if image else "float32", encoding="raw" if image else "float")
    model = build_encoder(spec, config, seed=1)
    weights = work = 0
    for layer in model.layers:
        kernels = [each for each in layer.trainable_weights if len(each.shape) > 1]
        size = sum(int(np.prod(each.shape)) for each in kernels)
        weights += size
        positions = int(np.prod(layer.output.shape[1:-1])) if isinstance(layer, keras.layers.Conv2D) else 1
        work += positions * size
    assert weights_of(config, shape) == weights
    assert multiply_adds(config, shape) == work


# --- bytes between stages -------------------------------------------------------------------------------------------


def test_the_files_of_routing_are_as_large_as_foreseen(tmp_path):
    import pyarrow as pa

    from simpipe.embeddings import NO_ENCODER, schema, vectors_column
    from simpipe.import_vectors import write_embeddings

    rows, dim, parts = 20_000, 32, 8
    rng = np.random.default_rng(0)
    kind = schema(dim, distance="cosine", encoder=NO_ENCODER, digests=True)
    columns = [
        pa.array([f"v-{row:09d}" for row in range(rows)]),
        pa.array([f"{row % 500:04d}" for row in range(rows)]),
        vectors_column(rng.normal(size=(rows, dim)).astype(np.float32)),
        pa.array([bytes(16)] * rows, pa.binary(16)),
    ]
    write_embeddings(pa.table(columns, schema=kind), tmp_path / "e.parquet")
    spec = RouteSpec(dim, "cosine", parts, 4, ())
    route_file(tmp_path / "e.parquet", Router(parts), spec, work=tmp_path, number=0)
    written = sum((tmp_path / f"{name}-00000.arrow").stat().st_size for name in ("route", "store"))
    assert sum(len(read_group([tmp_path / "route-00000.arrow"], number, parts)) for number in range(parts)) == rows
    config = vectors_config(queries={"fraction": 0.0}, build={"router": {"kind": "hash", "partitions": parts}})
    workload = Workload(rows, dim, id_bytes=11)
    foreseen, _ = moved(config, workload, shape_of(config, workload))["build"]
    assert foreseen == pytest.approx(written, rel=0.06)


# --- price ----------------------------------------------------------------------------------------------------------


def test_prices_by_hand():
    work = Work(serial_s=360.0, parallel_s=7200.0, pieces=8, cores=4, jobs=True, shuffled=3e9)
    cost = cost_of(work, MACHINE, PRICES, workers=10, startup_minutes=6, straggler=1.5)
    assert cost.workers == 2, "eight pieces are two machines of four vCPUs"
    assert cost.wall_s == (360 + 7200 / 8, 360 + 7200 / 8 * 1.5 + 360)
    an_hour = 4 * 0.5 + 16 * 0.25 + 100 * 0.01
    assert cost.price[0] == pytest.approx(7560 / 3600 * (0.5 + 4 * 0.25) + 6)
    assert cost.price[1] == pytest.approx(cost.wall_s[1] / 3600 * 2 * an_hour + 6)


@given(
    serial=st.floats(0, 1e5),
    parallel=st.floats(0, 1e7),
    pieces=st.integers(1, 5000),
    cores=st.integers(1, 64),
    workers=st.integers(1, 200),
)
def test_bounds_are_in_order_and_more_workers_are_never_slower(serial, parallel, pieces, cores, workers):
    work = Work(serial, parallel, pieces, cores, True, 0.0)
    one, more = (
        cost_of(work, MACHINE, PRICES, workers=count, startup_minutes=4, straggler=1.5) for count in (workers, 2 * workers)
    )
    for cost in (one, more):
        assert cost.wall_s[0] <= cost.wall_s[1]
        assert cost.price[0] <= cost.price[1]
        assert cost.workers <= max(1, math.ceil(pieces / cores))
    assert more.wall_s[0] <= one.wall_s[0] + 1e-6
    assert one.wall_s[0] >= serial + parallel / (workers * cores) - 1e-6


def test_machine_types():
    assert (Machine.of("n2-highmem-8", 50).vcpus, Machine.of("n2-highmem-8", 50).memory_gb) == (8, 64.0)
    assert Machine.of("n2-custom-6-20480", 50).memory_gb == 20.0
    with pytest.raises(ConfigError, match="custom-VCPUS"):
        Machine.of("e2-micro", 50)


# --- calibration and estimate ----------------------------------------------------------------------------------------


def test_simpipes_own_calibration_covers_every_backend_and_encoder():
    calibration = Calibration.load(None)
    for backend in ("scann", "nmslib", "faiss", "exact"):
        for items in (500, 100_000, 10_000_000):
            found = make_estimate(
                vectors_config(build={"backend": {"kind": backend}}), Workload(items, 64), calibration=calibration
            )
            assert [verb.verb for verb in found.verbs] == [
                "import",
                "build",
                "calibrate",
                "evaluate",
                "report",
                "gate",
                "publish",
            ]
            assert all(math.isfinite(verb.cpu_s) and verb.cpu_s >= 0 for verb in found.verbs)
    for architecture in ("conv4", "resnet8", "mlp"):
        config = parse_config(
            {"name": "x", "root": "r", "source": "digits", "train": {"encoder": {"architecture": architecture}}}
        )
        found = make_estimate(config, workload_of(config), calibration=calibration)
        assert [verb.verb for verb in found.verbs][:3] == ["shard", "train", "embed"]


def test_an_estimate_grows_with_the_items_and_adds_up():
    calibration = Calibration.load(None)
    config = vectors_config(queries={"fraction": 0.01})
    small, large = (make_estimate(config, Workload(items, 64), calibration=calibration) for items in (200_000, 2_000_000))
    assert small.cpu_s < large.cpu_s < 20 * small.cpu_s
    assert large.total_bytes == pytest.approx(10 * small.total_bytes, rel=0.1)
    about = json.loads(json.dumps(large.to_json()))
    assert about["total"]["cpu_s"] == pytest.approx(sum(verb["cpu_s"] for verb in about["verbs"]))
    assert about["total"]["bytes"] == pytest.approx(sum(about["bytes"].values()), abs=10)
    assert about["shape"]["partitions"] == large.shape.partitions > 1
    doubled = config.model_copy(update={"plan": config.plan.model_copy(update={"cpu_factor": 2.0})})
    assert make_estimate(doubled, Workload(200_000, 64), calibration=calibration).cpu_s == pytest.approx(2 * small.cpu_s)


def test_a_cluster_is_faster_and_dearer_than_one_core():
    calibration = Calibration.load(None)
    runner = {
        "kind": "dataflow",
        "project": "a-project",
        "region": "europe-west1",
        "image": "r/i@sha256:" + "0" * 64,
        "temp": "gs://bucket/t",
    }
    config, workload = vectors_config(build={"workers": 40}), Workload(50_000_000, 64)
    alone = make_estimate(config, workload, calibration=calibration)
    many = make_estimate(vectors_config(build={"workers": 40}, runner=runner), workload, calibration=calibration)
    assert many.cpu_s == pytest.approx(alone.cpu_s)
    assert many.wall_s[0] < alone.wall_s[0] / 3
    assert many.price[1] > many.price[0]
    build = next(verb for verb in many.verbs if verb.verb == "build")
    assert (build.machine, build.cost.workers) == ("n2-highmem-8", 20)
    two = make_estimate(vectors_config(build={"workers": 40}, runner=runner), workload, calibration=calibration, workers=2)
    assert next(verb for verb in two.verbs if verb.verb == "build").cost.workers == 2


def test_a_calibration_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Calibration.load(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(ConfigError, match="no JSON"):
        Calibration.load(tmp_path / "a.json")
    about = Calibration.load(None).model_dump(mode="json")
    (tmp_path / "a.json").write_text(json.dumps({**about, "cpu": {"build": {"one": -1}}}))
    with pytest.raises(ConfigError, match=r"cpu\.build\.one"):
        Calibration.load(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({**about, "cpu": {**about["cpu"], "build": {"one": 1.0}}}))
    found = Calibration.load(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"no `items` of build"):
        make_estimate(vectors_config(), Workload(1000, 8), calibration=found)
