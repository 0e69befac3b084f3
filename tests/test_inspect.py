"""`inspect` shows what a data set holds; its grid reads the chosen examples only. `shard --verify` says what is wrong."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpipe.cli import main
from simpipe.config import load_config
from simpipe.data.examples import DatasetInfo
from simpipe.data.inspect import choose_examples, class_sizes, histogram, read_grid, summarize
from simpipe.data.verify import verify_examples
from simpipe.errors import ContractError, SimpipeError
from simpipe.storage import LocalFolder, open_folder
from simpipe.visualization.example_grid import draw_grid
from tests.fake_gcs import serving
from tests.make_examples import make_examples

SIZES = [40, 3, 17, 9, 1, 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each picture is filled with its row number (two bytes), in three splits."""
    folder = tmp_path_factory.mktemp("inspect") / "examples"
    labels = np.repeat(np.arange(6), SIZES)
    x = np.zeros((len(labels), 20, 12, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 1, 0, 0] = np.arange(len(labels)) % 256, labels
    make_examples(folder, x, labels * 5, split=np.arange(len(labels)) % 4 % 3, num_shards=3, entry_bytes=2000)
    return folder


def test_the_summary_counts_what_was_written(folder: Path) -> None:
    info = DatasetInfo.load(folder)
    summary = summarize(info, "here")
    assert json.loads(json.dumps(summary)) == summary
    assert summary["examples"] == sum(SIZES) == 100
    train = summary["splits"]["train"]
    assert (train["examples"], train["shards"], train["unlabelled"]) == (50, 3, 0)
    assert train["bytes"] == sum(path.stat().st_size for path in folder.glob("train*.gz"))
    assert train["sidecar_bytes"] == sum(path.stat().st_size for path in folder.glob("train*.npy"))
    assert train["bytes_per_example"] == round(train["bytes"] / 50, 1)
    of_train = np.bincount(np.repeat(np.arange(6), SIZES)[np.arange(100) % 4 % 3 == 0])
    of_train = of_train[of_train > 0]
    assert train["class_size"] == {"min": of_train.min(), "median": np.median(of_train), "max": of_train.max()}
    assert class_sizes(info) == dict(zip(("0", "5", "10", "15", "20", "25"), SIZES, strict=True))
    assert summary["classes"]["largest"][0] == ["0", 40]
    assert summary["classes"]["smallest"][0] == ["20", 1]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_histograms_hold_every_class_once(sizes: list[int]) -> None:
    bins = histogram(np.array(sizes))
    assert len(bins) <= 11
    assert sum(count for _, _, count in bins) == len(sizes)
    for low, high, count in bins:
        assert count == sum(low <= size <= high for size in sizes)
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(bins))
    assert bins[0][0] <= min(sizes)
    assert bins[-1][0] <= max(sizes) <= bins[-1][1]


def test_no_classes_no_histogram() -> None:
    assert histogram(np.zeros(3, np.int64)) == []


@pytest.mark.parametrize(("classes", "examples"), [(3, 4), (20, 50), (1, 1)])
def test_the_grid_holds_distinct_examples_of_their_class(folder: Path, classes: int, examples: int) -> None:
    info = DatasetInfo.load(folder)
    grid = read_grid(LocalFolder(folder), info, classes=classes, examples=examples, seed=1)
    sizes = class_sizes(info)
    assert len(grid.names) == len(set(grid.names)) == min(classes, 6)
    assert grid.names == sorted(grid.names, key=int)
    for name, block in zip(grid.names, grid.inputs, strict=True):
        assert len(block) == min(examples, sizes[name])
        assert (block[:, 1, 0, 0] == int(name) // 5).all()
        assert len(set(block[:, 0, 0, 0].tolist())) == len(block)


def test_the_seed_chooses(folder: Path) -> None:
    info = DatasetInfo.load(folder)
    chosen = [choose_examples(info, classes=3, examples=5, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert chosen[0] == chosen[1]
    assert len({str(each) for each in chosen}) == 4


def test_the_grid_reads_by_offsets_also_from_object_storage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").symlink_to(folder.parent)
    with serving(tmp_path) as gcs:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        remote = open_folder("gs://bucket/examples")
        info = DatasetInfo.load(remote)
        gcs.ranges.clear()
        grid = read_grid(remote, info, classes=2, examples=3, seed=4)
        whole = {shard.size for split in info.splits.values() for shard in split.shards}
        assert gcs.ranges
        assert all(int(last) - int(first) + 1 not in whole for first, last in (each[6:].split("-") for each in gcs.ranges))
    here = read_grid(LocalFolder(folder), info, classes=2, examples=3, seed=4)
    for block, other in zip(grid.inputs, here.inputs, strict=True):
        np.testing.assert_array_equal(block, other)


def test_drawn_pixels_are_those_of_the_examples() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 256, (count, 10, 20, 3)).astype(np.uint8) for count in (3, 1)]
    drawn = np.asarray(Image.open(io.BytesIO(draw_grid(["a", "b" * 99], rows, "title"))))
    # 20 pixels wide are enlarged by 4; the first picture begins where its frame ends.
    windows = np.lib.stride_tricks.sliding_window_view(drawn[:, :, 0], (40, 80))
    found = np.argwhere((windows[:, :, ::4, ::4] == rows[0][0][:, :, 0]).all((2, 3)))
    assert len(found) == 16  # anywhere in the first enlarged pixel
    y, x = found[0]
    for row, block in enumerate(rows):
        for column, picture in enumerate(block):
            top, left = y + row * 46, x + column * 86
            np.testing.assert_array_equal(drawn[top : top + 40, left : left + 80], picture.repeat(4, 0).repeat(4, 1))
    assert (drawn[y + 46 : y + 86, x + 86 :] == 255).all(), "the second class has one example only"


def test_grids_of_floats_and_of_large_pictures() -> None:
    ramp = np.linspace(-1, 1, 300 * 400, dtype=np.float32).reshape(1, 300, 400, 1)
    drawn = np.asarray(Image.open(io.BytesIO(draw_grid(["x"], [ramp], "t"))).convert("L"))
    assert drawn.shape[1] < 200
    assert (np.diff(drawn[45:130, 100].astype(int)) >= -1).all(), "dark to bright, from top to bottom"


def test_what_is_no_picture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_examples(tmp_path / "v", np.ones((6, 4), np.float32), np.arange(6) % 2)
    with pytest.raises(SimpipeError, match="no pictures"):
        read_grid(LocalFolder(tmp_path / "v"), DatasetInfo.load(tmp_path / "v"), classes=1, examples=1, seed=0)
    assert main(["inspect", "--folder", str(tmp_path / "v"), "--grid", str(tmp_path / "g.png")]) == 1
    assert main(["inspect", "--folder", str(tmp_path / "v")]) == 0
    assert "float32 [4] as float" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


def test_a_damaged_example_is_named(folder: Path, tmp_path: Path) -> None:
    info = make_examples(tmp_path / "e", np.zeros((6, 4, 4, 1), np.uint8), np.zeros(6), num_shards=1, compression="")
    path = tmp_path / "e" / info.splits["train"].shards[0].path
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ContractError, match=rf"{path.name}: record 0"):
        read_grid(LocalFolder(tmp_path / "e"), info, classes=1, examples=6, seed=0)


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "--folder", str(folder), "--json", "--grid"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 100
    assert Image.open(tmp_path / "examples-grid.png").format == "PNG"
    assert main(["shard", "--verify", "--folder", str(folder)]) == 0
    assert "100 records in 18 files" in capsys.readouterr().out
    assert main(["shard", "--folder", str(folder)]) == 2
    assert main(["inspect", "--folder", str(folder), "--", "--runner=x"]) == 2
    assert main(["inspect", "--folder", str(tmp_path)]) == 1
    assert "dataset.json: file is missing" in capsys.readouterr().err
    make_examples(tmp_path / "e", np.zeros((6, 4, 4, 1), np.uint8), np.zeros(6), num_shards=1)
    (tmp_path / "e" / "query-00007-of-00009.tfrecord").write_bytes(b"")
    (tmp_path / "e" / "train-00000-of-00001.tfrecord.gz.offsets.npy").unlink()
    assert main(["shard", "--verify", "--folder", str(tmp_path / "e")]) == 1
    said = capsys.readouterr().out
    assert "query-00007-of-00009.tfrecord: not listed in dataset.json\n  cure: remove the file" in said
    assert "offsets.npy: listed in dataset.json but missing\n  cure: " in said
    assert "2 findings" in said


def test_without_examples_the_commands_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(REPOSITORY / "configs/digits.yaml"), "--set", f"root={tmp_path}"]
    for verb in (["inspect"], ["shard", "--verify"]):
        assert main([*verb, *config]) == 1
        assert "run `simpipe shard` first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_configuration_of_a_tfds_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow_datasets")
    from tests.make_tfds import make_mnist

    make_mnist(tmp_path / "tfds", train_copies=1, test_copies=1)
    path = str(REPOSITORY / "configs/tfds.yaml")
    changes = [
        "--set",
        f"root={tmp_path / 'runs'}",
        "--set",
        f"source.data_dir={tmp_path / 'tfds'}",
        "--set",
        "shard.num_shards=3",
    ]
    assert load_config(path).train.epochs == 5
    assert main(["shard", "--config", path, *changes]) == 0
    assert main(["shard", "--verify", "--config", path, *changes]) == 0
    capsys.readouterr()
    assert main(["inspect", "--config", path, *changes, "--json", "--grid", str(tmp_path / "grid.png")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["examples"] == 1797
    assert summary["input"]["encoding"] == "image"
    assert summary["provenance"]["source"]["name"] == "mnist"
    assert (summary["classes"]["all"], summary["classes"]["trained"]) == (10, 8)
    assert np.asarray(Image.open(tmp_path / "grid.png").convert("L")).std() > 40
    assert verify_examples(summary["folder"]).records == 1797
