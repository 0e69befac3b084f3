"""`dedupe` over a release, and releases of representatives only: what was planted is found, left out, and nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import simpipe
from pipelines import dedupe
from pipelines.line import Line
from simpipe import files
from simpipe.cli import main
from simpipe.config import parse_config
from simpipe.errors import ConfigError, ContractError
from simpipe.groups import DEDUPE_JSON, GroupsInfo

pytestmark = pytest.mark.usefixtures("undrawn")

CUTOFF = 1e-3
TWINS, CHAIN = 25, 60


def planted() -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Vectors, ids, and groups: pairs and triples with noise, 25 exact twins, and a chain whose ends are far from each other."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(900, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = [[row, 100 + row] + ([200 + row] if row % 3 == 0 else []) for row in range(30)]
    for first, *others in groups:
        vectors[others] = vectors[first] + rng.normal(size=(len(others), 16)) * 1e-3
    twins = list(range(400, 400 + TWINS))
    vectors[twins] = vectors[400]
    chain = list(range(500, 500 + CHAIN))
    steps = np.arange(CHAIN)[:, None] * np.arccos(1 - 0.8 * CUTOFF)
    aside = vectors[501] - (vectors[501] @ vectors[500]) * vectors[500]
    vectors[chain] = np.cos(steps) * vectors[500] + np.sin(steps) * aside / np.linalg.norm(aside)
    ids = [f"v{row * 7919 % 900:03d}" for row in range(900)]  # so that files, rows and ids are in different orders
    return vectors.astype(np.float32), ids, [sorted(ids[row] for row in group) for group in [*groups, twins, chain]]


VECTORS, IDS, GROUPS = planted()


def config_of(folder: Path, *, vectors=VECTORS, ids=IDS, labels=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", vectors)
    np.save(folder / "ids.npy", np.array(ids))
    source = {"kind": "vectors", "path": str(folder / "x.npy"), "ids": str(folder / "ids.npy")}
    if labels is not None:
        np.save(folder / "labels.npy", np.array(labels))
        source["labels"] = str(folder / "labels.npy")
    raw = {
        "name": "dedupe",
        "root": str(folder / "root"),
        "source": source,
        "queries": {"fraction": 0.0},
        "build": {
            "router": {"kind": "kmeans", "partitions": 11, "spill": "soar"},
            "backend": {"kind": "exact"},
            "store_files": 3,
        },
        "search": {"target_recall": None},
        "dedupe": {"distance": CUTOFF, "k": 3},
    }
    return parse_config({**raw, **changes})


def lines(config) -> tuple[Line, list[str]]:
    said: list[str] = []
    line = Line(config, (), said.append)
    line.embed()
    line.build()
    return line, said


def rows_of(folder: Path) -> list[dict]:
    return [row for file in GroupsInfo.load(folder).files for row in pq.read_table(folder / file.path).to_pylist()]


def groups_of(folder: Path) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows_of(folder):
        found.setdefault(row["representative"], []).append(row["id"])
    assert all(name == min(members) and members == sorted(members) for name, members in found.items())
    return list(found.values())


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    config = config_of(tmp_path_factory.mktemp("dedupe"))
    line, said = lines(config)
    folder, info = line.dedupe()
    return config, line, said, folder, info


def test_planted_groups_are_found_over_eleven_partitions(ran):
    _, line, said, folder, info = ran
    assert sorted(groups_of(folder)) == sorted(GROUPS)
    assert info.counts == {
        "items": 900,
        "pairs": info.counts["pairs"],
        "members": sum(map(len, GROUPS)),
        "groups": len(GROUPS),
        "largest": CHAIN,
        "truncated": TWINS,
    }
    assert (info.release, info.distance, info.k) == (line.release()[1].release, "cosine", 3)
    assert info.cutoff == float(np.float32(CUTOFF))
    members, groups = sum(map(len, GROUPS)), len(GROUPS)
    assert f"{members} near duplicates in {groups} groups (largest 60) of 900 items; {folder}" in said[-1]
    assert not list((line.root / "releases").glob(".work*")), "no work is left"


def test_the_chain_crosses_partitions_and_distances_are_the_nearest(ran):
    _, line, _, folder, _ = ran
    searcher = simpipe.open_release(line.release()[0])
    names = [IDS[row] for row in range(500, 500 + CHAIN)]
    assert len(set(searcher.items_of(names)["partition"].to_pylist())) > 1
    assert len(searcher.manifest.partitions) == 11
    assert sum(part.rows for part in searcher.manifest.partitions) > 900, "some spill"
    x = VECTORS.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    far = 1 - x @ x.T
    np.fill_diagonal(far, np.inf)
    nearest = dict(zip(IDS, far.min(axis=1), strict=True))
    for row in rows_of(folder):
        assert row["distance"] == pytest.approx(nearest[row["id"]], abs=2e-6)


def test_run_again_it_is_skipped_and_damage_is_mended(ran):
    config, _, _, folder, info = ran
    said: list[str] = []
    again = Line(config, (), said.append)
    assert again.dedupe() == (folder, info)
    assert said[-1].startswith("dedupe     skipped, unchanged")
    (folder / info.files[0].path).unlink()
    assert Line(config, (), said.append).dedupe() == (folder, info)
    assert "done in" in said[-1]


@pytest.mark.parametrize(("block", "beam_args"), [(120, []), (1 << 22, ["--runner=BundleBasedDirectRunner"])])
def test_same_bytes_in_buckets_and_on_another_runner(ran, tmp_path, block, beam_args):
    config, line, _, _, info = ran
    found = dedupe.run(
        config,
        release=line.release()[0],
        embeddings=line.embeddings[0],
        folder=tmp_path / "other",
        key=info.key,
        cutoff=CUTOFF,
        beam_args=beam_args,
        block=block,
    )
    assert found == info


def test_partitions_and_files_do_not_matter(ran, tmp_path):
    build = {"router": {"kind": "hash", "partitions": 1}, "backend": {"kind": "exact"}, "store_files": 1}
    line, _ = lines(config_of(tmp_path, build=build, search={"target_recall": None, "block": 100}))
    assert line.dedupe()[1].files == ran[4].files


def test_representatives_only(ran, tmp_path):
    config, before, _, folder, info = ran
    changed = config.model_copy(
        update={
            "build": config.build.model_copy(update={"representatives": str(folder)}),
            "calibrate": config.calibrate.model_copy(update={"queries": "items"}),
        }
    )
    said: list[str] = []
    line = Line(changed, (), said.append)
    where, manifest = line.build()
    assert f"{info.excluded} near duplicates left out" in said[0]
    assert manifest.release != before.release()[1].release
    assert manifest.items == 900 - info.excluded
    about = {"groups": info.key, "release": info.release, "excluded": info.excluded}
    assert manifest.provenance["representatives"] == about
    searcher = simpipe.open_release(where)
    kept = {name for part in manifest.partitions for name in searcher.partition(part.partition).ids}
    assert kept == set(IDS) - {name for group in GROUPS for name in group} | {group[0] for group in GROUPS}
    assert searcher.lookup(VECTORS[:1], 900).valid.sum() == manifest.items
    near = searcher.lookup_items(sorted(kept), 1 + 1).distances[:, 1] <= CUTOFF
    assert not near[[name not in GROUPS[-1] for name in sorted(kept)]].any()
    again, found = line.dedupe()
    assert again != folder
    assert found.counts == {"items": manifest.items, "pairs": 0, "members": 0, "groups": 0, "largest": 0, "truncated": 0}
    line.calibrate()
    asked = files.read_json(line.release()[0] / "cutpoints.json")["queries"]
    assert asked == manifest.items, "the items that others represent are not in the index: they would find their representative"
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    elsewhere = changed.model_copy(update={"build": config.build.model_copy(update={"representatives": str(moved)})})
    assert Line(elsewhere, (), print).steps == line.steps, "which groups they are counts, not where they lie"


def test_groups_of_other_items_or_altered_ones_are_refused(ran, tmp_path):
    config, _, _, folder, info = ran
    build = config.build.model_dump(mode="json")
    missing, represents = GROUPS[0][-1], GROUPS[1][0]
    for gone, text in ((missing, r"1 of \d+ near duplicates and 0 of"), (represents, "and 1 of 32 representatives")):
        keep = np.array([name != gone for name in IDS])
        other = config_of(
            tmp_path / gone, vectors=VECTORS[keep], ids=list(np.array(IDS)[keep]), build={**build, "representatives": str(folder)}
        )
        with pytest.raises(ContractError, match=f"made from other items: .*{text}"):
            lines(other)
        assert not list((tmp_path / gone / "root" / "releases").glob("*/manifest.json"))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    data = bytearray((copy / info.files[0].path).read_bytes())
    data[40] ^= 1
    (copy / info.files[0].path).write_bytes(bytes(data))
    with pytest.raises(ContractError, match="SHA-256"):
        lines(config_of(tmp_path / "altered", build={**build, "representatives": str(copy)}))
    (copy / DEDUPE_JSON).unlink()
    with pytest.raises(ContractError, match=r"dedupe\.json: file is missing"):
        lines(config_of(tmp_path / "none", build={**build, "representatives": str(copy)}))


def test_how_near_is_asked_for_by_name_or_number(tmp_path, monkeypatch, capsys):
    labels = [f"c{row % 5}" for row in range(900)]
    config = config_of(tmp_path, labels=labels, queries={"fraction": 0.2}, dedupe={"k": 3})
    line, _ = lines(config)
    with pytest.raises(ConfigError, match="none says how near") as error:
        line.dedupe()
    assert "no cutpoints, `simpipe calibrate` makes them" in error.value.cure
    line.calibrate()
    with pytest.raises(ConfigError) as error:
        line.dedupe()
    cuts = files.read_json(line.release()[0] / "cutpoints.json")["cutpoints"]
    assert all(f"{name} (" in error.value.cure for name in cuts)
    monkeypatch.setattr("simpipe.commands.load_config", lambda *_: config)
    assert main(["dedupe", "--cutpoint", "nearest"]) == 2
    assert main(["dedupe", "--distance", "0"]) == 2
    assert "has no cutpoint 'nearest'" in capsys.readouterr().err
    assert main(["dedupe", "--cutpoint", "optimal"]) == 0
    assert main(["dedupe", "--distance", str(CUTOFF)]) == 0
    made = sorted((GroupsInfo.load(path.parent) for path in (tmp_path / "root").rglob(DEDUPE_JSON)), key=lambda x: x.cutoff)
    assert [(info.cutoff, info.cutpoint) for info in made] == sorted(
        [(float(np.float32(CUTOFF)), None), (float(np.float32(cuts["optimal"]["distance"])), "optimal")]
    )
