"""The whole line on real handwritten digits, from shards to an image that is matched."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from test_line_vectors import items_of, run

import simpipe
from pipelines.line import Line
from simpipe import releases
from simpipe.cli import main
from simpipe.config import parse_config
from simpipe.data.examples import DatasetInfo
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.encoder_canaries import CANARIES_NPZ, EncoderCanaries, check_canaries
from simpipe.errors import ConfigError, ContractError, IncompatibleError, SourceError
from simpipe.training.encoder import EncoderInfo, load_model

TRAIN = {"epochs": 2, "steps_per_epoch": 40, "sampler": {"classes_per_batch": 8, "examples_per_class": 4}}


def digits_config(root: Path, **changes):
    raw = {
        "name": "digits",
        "root": str(root),
        "source": "digits",
        "classes": {"train": ["0-7"]},
        "queries": {"fraction": 0.2},
        "shard": {"num_shards": 3},
        "train": TRAIN,
        "build": {"router": {"kind": "kmeans", "partitions": 3}, "backend": {"kind": "scann", "exact_below": 16}},
        "search": {"target_recall": None},
        "report": {"projection_items": 100},
    }
    return parse_config({**raw, **changes})


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    config = digits_config(tmp_path_factory.mktemp("digits") / "root")
    return config, *run(config)


def test_every_digit_arrives_once(ran):
    _, line, said = ran
    data = load_digits()
    labels = {f"digits-{row:05d}": str(label) for row, label in enumerate(data.target)}
    found = items_of(line.root)
    queries = queries_of(line)
    assert set(found) | set(queries["id"].to_pylist()) == set(labels)
    assert not set(found) & set(queries["id"].to_pylist())
    assert all(labels[name] == label for name, (label, _) in found.items())
    assert [text.split()[0] for text in said] == [
        "shard",
        "train",
        "embed",
        "build",
        "calibrate",
        "evaluate",
        "report",
        "gate",
        "publish",
    ]
    info = DatasetInfo.load(line.examples[0])
    assert set(info.class_counts["train"]) == set("01234567")
    assert set(info.class_counts["index"]) == set("89"), "never trained on, but indexed"


def queries_of(line: Line) -> pa.Table:
    folder = line.embeddings[0]
    return pa.concat_tables([pq.read_table(folder / file.path) for file in EmbeddingsInfo.load(folder).of_splits("query")])


def test_vectors_are_the_encoder_s_and_of_unit_norm(ran):
    _, line, _ = ran
    model, _ = load_model(line.encoder[0])
    images = (load_digits().images * (255 / 16)).round().astype(np.uint8)[..., None]
    found = items_of(line.root)
    names = sorted(found)[:100]
    stored = np.stack([np.frombuffer(found[name][1], np.float32) for name in names])
    computed = np.asarray(model(images[[int(name[-5:]) for name in names]], training=False))
    np.testing.assert_allclose(stored, computed, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)


def test_quality_of_a_short_training(ran):
    """Far below what configs/digits.yaml reaches (0.98), far above chance (0.1): the line did learn and find."""
    metrics = ran[1].metrics()
    assert metrics["label_precision_at_1"] > 0.85
    assert metrics["ann_recall_at_10"] > 0.99


def test_an_image_file_is_matched(ran, tmp_path, capsys):
    config, line, _ = ran
    queries = queries_of(line)
    name = queries["id"][0].as_py()
    row = int(name[-5:])
    image = (load_digits().images[row] * (255 / 16)).round().astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "digit.png")
    (tmp_path / "c.yaml").write_text(json.dumps(json.loads(config.model_dump_json())))
    options = ["--config", str(tmp_path / "c.yaml"), "--json"]
    assert main(["match", *options, "--image", str(tmp_path / "digit.png"), "-k", "3"]) == 0
    by_image = json.loads(capsys.readouterr().out)["results"][0]
    assert main(["match", *options, "--id", name, "-k", "3"]) == 0
    by_id = json.loads(capsys.readouterr().out)["results"][0]
    assert by_id["label"] == str(load_digits().target[row])
    assert by_image["match"]["label"] == by_id["match"]["label"]
    assert [n["id"] for n in by_image["neighbors"]] == [n["id"] for n in by_id["neighbors"]]
    np.save(tmp_path / "q.npy", vectors_of(queries)[:2])
    assert main(["lookup", *options, "--vectors", str(tmp_path / "q.npy")]) == 0
    by_vector = json.loads(capsys.readouterr().out)["results"]
    assert [n["id"] for n in by_vector[0]["neighbors"]][:3] == [n["id"] for n in by_id["neighbors"]]
    assert main(["lookup", *options[:2], "--image", str(tmp_path / "c.yaml")]) == 1
    assert "cannot be read as an image" in capsys.readouterr().err
    assert main(["lookup", *options[:2], "--id", "digits-99999"]) == 1
    assert "'digits-99999' is not in release" in capsys.readouterr().err


def test_a_picture_is_inverted_as_its_source_was(tmp_path, capsys):
    data = load_digits()
    dark = 255 - (data.images * (255 / 16)).round().astype(np.uint8)  # ink is dark, as on paper
    np.savez(tmp_path / "paper.npz", x=dark, y=data.target)
    source = {"kind": "npz", "path": str(tmp_path / "paper.npz"), "invert": True}
    config = digits_config(tmp_path / "root", source=source)
    line, _ = run(config)
    name = queries_of(line)["id"][0].as_py()
    Image.fromarray(dark[int(name[-6:])]).save(tmp_path / "digit.png")
    (tmp_path / "c.yaml").write_text(json.dumps(json.loads(config.model_dump_json())))
    answers = []
    for query in (["--image", str(tmp_path / "digit.png")], ["--id", name]):
        assert main(["lookup", "--config", str(tmp_path / "c.yaml"), "--json", *query]) == 0
        answers.append(json.loads(capsys.readouterr().out)["results"][0]["neighbors"])
    assert [n["id"] for n in answers[0]] == [n["id"] for n in answers[1]]
    np.testing.assert_allclose([n["distance"] for n in answers[0]], [n["distance"] for n in answers[1]], atol=1e-4)


def test_embedding_goes_on_after_a_kill_and_trusts_no_damaged_file(ran, tmp_path):
    from pipelines import embed
    from simpipe.errors import SimpipeError

    config, line, _ = ran
    folder = tmp_path / "out"
    examples = tmp_path / "examples"
    shutil.copytree(line.examples[0], examples)
    victim = sorted(examples.glob("query*.gz"))[-1]
    whole = victim.read_bytes()
    victim.unlink()
    with pytest.raises(SimpipeError, match=victim.name):
        embed.run(config, examples=examples, encoder=line.encoder[0], folder=folder, key="x")
    finished = sorted(folder.glob("[a-z]*.parquet"))
    assert finished, "other shards were embedded before the failure"
    times = {path.name: path.stat().st_mtime_ns for path in finished}
    damaged = finished[0]
    damaged.write_bytes(damaged.read_bytes()[:-10])
    victim.write_bytes(whole)
    info = embed.run(config, examples=examples, encoder=line.encoder[0], folder=folder, key="x")
    kept = [name for name, time in times.items() if name != damaged.name and (folder / name).stat().st_mtime_ns == time]
    assert len(kept) == len(finished) - 1, "finished shards are not embedded again"
    wanted = {(file.path, file.sha256) for file in EmbeddingsInfo.load(line.embeddings[0]).files}
    assert {(file.path, file.sha256) for file in info.files} == wanted


def test_an_encoder_of_another_training_is_refused(ran, tmp_path, capsys):
    config, line, _ = ran
    other = digits_config(tmp_path / "other", train={**TRAIN, "epochs": 1, "steps_per_epoch": 2})
    stranger = Line(other, say=lambda text: None)
    stranger.shard()
    about = stranger.train()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "digit.png")
    (tmp_path / "c.yaml").write_text(json.dumps(json.loads(config.model_dump_json())))
    command = ["lookup", "--config", str(tmp_path / "c.yaml"), "--image", str(tmp_path / "digit.png")]
    assert main([*command, "--encoder", str(stranger.encoder[0])]) == 1
    shown = capsys.readouterr().err
    assert about.fingerprint[:12] in shown
    assert EncoderInfo.load(line.encoder[0]).fingerprint[:12] in shown
    stranger.embed()
    from pipelines import calibrate

    with pytest.raises(IncompatibleError, match="encoder"):
        calibrate.run(config, release=line.release()[0], embeddings=stranger.embeddings[0], key="x")


def test_an_encoder_that_embeds_otherwise_than_it_did_is_refused(ran, tmp_path, capsys, monkeypatch):
    """The same fingerprint, other embeddings: as if another version of a library computed something else."""
    config, line, _ = ran
    folder, manifest = line.release()
    kept = EncoderCanaries.load(releases.verify_file(folder, manifest.file(CANARIES_NPZ)))
    found = items_of(line.root)
    images = (load_digits().images * (255 / 16)).round().astype(np.uint8)[..., None]
    assert (len(kept.ids), kept.encoder) == (8, manifest.encoder.fingerprint)
    for name, inputs, embedding in zip(kept.ids, kept.inputs, kept.embeddings, strict=True):
        np.testing.assert_array_equal(inputs, images[int(name[-5:])])
        np.testing.assert_allclose(np.frombuffer(found[name][1], np.float32), embedding, atol=1e-6)
    model, about = load_model(line.encoder[0])
    searcher = simpipe.open_release(config.root)
    assert check_canaries(searcher, model)
    weights = model.get_weights()
    weights[-1] = weights[-1] + np.float32(0.1)
    model.set_weights(weights)
    with pytest.raises(IncompatibleError, match="does not embed as it did"):
        check_canaries(searcher, model)
    monkeypatch.setattr("simpipe.training.encoder.load_model", lambda folder: (model, about))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "digit.png")
    (tmp_path / "c.yaml").write_text(json.dumps(json.loads(config.model_dump_json())))
    assert main(["lookup", "--config", str(tmp_path / "c.yaml"), "--image", str(tmp_path / "digit.png")]) == 1
    assert "does not embed as it did" in capsys.readouterr().err


class Page(HTMLParser):
    """Collects what a page refers to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.text = ""
        self.images = 0

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.references += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data):
        self.text += data


def test_report_is_self_contained_and_shows_the_queries(ran):
    _, line, _ = ran
    folder, manifest = line.release()
    page = Page()
    page.feed((folder / "report.html").read_text())
    assert all(value.startswith(("data:", "#")) for value in page.references)
    assert page.images >= 60, "ten queries with five neighbors each, as pictures"
    assert manifest.release in page.text
    assert "no match" in page.text


def test_indexing_other_classes_needs_no_new_training(ran, tmp_path):
    _, line, _ = ran
    shutil.copytree(line.root, tmp_path / "root")
    fewer, said = run(digits_config(tmp_path / "root", classes={"train": ["0-7"], "index": ["0-8"]}))
    state = {text.split()[0]: "skipped" in text for text in said}
    assert not state["shard"]
    assert state["train"]
    assert not state["build"]
    assert {label for label, _ in items_of(fewer.root).values()} == set("012345678")


def test_a_truncated_shard_is_named(ran, tmp_path):
    config, line, _ = ran
    examples = tmp_path / "examples"
    shutil.copytree(line.examples[0], examples)
    victim = examples / "index-00001-of-00003.tfrecord.gz"
    victim.write_bytes(victim.read_bytes()[:-40])
    from pipelines import embed

    with pytest.raises(ContractError, match=r"index-00001-of-00003\.tfrecord\.gz"):
        embed.run(config, examples=examples, encoder=line.encoder[0], folder=tmp_path / "out", key="x")
    info = DatasetInfo.load(examples)  # as if it had been written so: the checksum agrees, the records do not
    from simpipe import files

    entry = files.entry_of(victim, examples)
    shards = list(info.splits["index"].shards)
    shards[1] = shards[1].model_copy(update={"size": entry.size, "sha256": entry.sha256})
    split = info.splits["index"].model_copy(update={"shards": tuple(shards)})
    info.model_copy(update={"splits": {**info.splits, "index": split}}).save(examples)
    with pytest.raises(ContractError, match=r"index-00001.*(after record \d+|records, dataset)"):
        embed.run(config, examples=examples, encoder=line.encoder[0], folder=tmp_path / "out", key="x")
    assert not (tmp_path / "out" / "embeddings.json").exists()


def test_mistakes_in_class_lists(tmp_path):
    with pytest.raises(ConfigError, match=r"classes\.train: class '11'") as caught:
        run(digits_config(tmp_path / "a", classes={"train": ["0-7", "11"]}))
    assert caught.value.cure
    many = {**TRAIN, "sampler": {"classes_per_batch": 2, "examples_per_class": 200}}
    with pytest.raises(SourceError, match=r"examples_per_class|fewer than"):
        run(digits_config(tmp_path / "b", train=many))


def test_metadata_travels_to_the_answer(tmp_path):
    rng = np.random.default_rng(0)
    rows = 120
    table = pa.table(
        {
            "id": [f"p{row}" for row in range(rows)],
            "label": [str(row % 4) for row in range(rows)],
            "a": rng.normal(size=rows) + np.arange(rows) % 4,
            "b": rng.normal(size=rows),
            "color": [None if row % 5 == 0 else f"color {row}" for row in range(rows)],
            "price": pa.array([row if row % 7 else None for row in range(rows)], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    source = {"kind": "parquet", "path": str(tmp_path / "x.parquet"), "columns": ["a", "b"], "metadata": ["color", "price"]}
    train = {
        "epochs": 1,
        "steps_per_epoch": 2,
        "sampler": {"classes_per_batch": 2, "examples_per_class": 2},
        "encoder": {"architecture": "mlp", "dim": 8},
    }
    line, _ = run(digits_config(tmp_path / "r", source=source, classes={}, train=train))
    searcher = simpipe.open_release(line.root)
    names = [name for about in searcher.manifest.partitions for name in searcher.partition(about.partition).ids]
    got = searcher.items_of(names)
    for name, color, price in zip(names, got["color"].to_pylist(), got["price"].to_pylist(), strict=True):
        row = int(name[1:])
        assert color == (None if row % 5 == 0 else f"color {row}")
        assert price == (row if row % 7 else None)


def test_rerun_publishes_the_same_release(ran):
    config, line, _ = ran
    before = releases.read_pointer(line.root)
    _, said = run(config)
    assert all("skipped, unchanged" in text for text in said)
    assert releases.read_pointer(line.root) == before
