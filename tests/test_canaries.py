"""Canary queries are read, asked and judged; an encoder that embeds otherwise than it did is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from release_maker import RELEASE, make_release

import simpipe
from simpipe import files, releases
from simpipe.canaries import ask, load_canaries
from simpipe.encoder_canaries import CANARIES_NPZ, EncoderCanaries, check_canaries
from simpipe.errors import ConfigError, ContractError, IncompatibleError
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher

ENCODER = "e" * 64


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Searcher:
    """Items at the corners of a grid, far from each other, matched within a distance of 0.1."""
    root = tmp_path_factory.mktemp("canaries")
    vectors = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    make_release(root, vectors, Router(2))
    searcher = simpipe.open_release(root)
    point = {"name": "optimal", "distance": 0.1}
    searcher.calibrated = {
        "matcher": "match_nearest",
        "k": 1,
        "depth": 1,
        "cutpoints": {"optimal": point},
        "matchers": {},
        "by": None,
    }
    return searcher


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def asked(searcher: Searcher, tmp_path: Path, *lines: object):
    canaries = load_canaries(written(tmp_path / "c.jsonl", *lines))
    return ask(canaries, searcher, root=tmp_path, folder=tmp_path)


def test_answers_are_those_of_lookup_and_match(opened, tmp_path):
    near = [0.02, 0.0, 1.0]  # 0.02 from an item, 1 from the others
    item = opened.lookup(np.array([near], np.float32), 1).ids[0, 0]
    label = opened.items_of([item])["label"][0].as_py()
    second = opened.lookup(np.array([[0.4, 0, 1.0]], np.float32), 2).ids[0, 1]
    answers = asked(
        opened,
        tmp_path,
        {"name": "id", "vector": near, "expect_id": item},
        "",
        {"name": "label", "vector": near, "expect_label": label},
        {"name": "none", "vector": [0.5, 0.5, 0.5], "expect_none": True},
        {"name": "itself", "id": item, "expect_id": item},
        {"name": "far label", "vector": [0.5, 0.5, 0.5], "expect_label": label},
        {"name": "not none", "vector": near, "expect_none": True},
        {"name": "second", "vector": [0.4, 0, 1.0], "k": 2, "expect_id": second},
        {"name": "only first", "vector": [0.4, 0, 1.0], "expect_id": second},
    )
    assert [answer.name for answer in answers if not answer.right] == ["far label", "not none", "only first"]
    assert answers[4].said == f"expected label {label}, got no match"
    assert answers[5].said == f"expected no match, got label {label}"


def test_what_cannot_be_asked_is_wrong_and_says_why(opened, tmp_path):
    answers = asked(
        opened,
        tmp_path,
        {"name": "gone", "id": "nobody", "expect_label": "l1"},
        {"name": "dim", "vector": [1.0], "expect_none": True},
        {"name": "cut", "vector": [0, 0, 0], "cutpoint": "typo", "expect_none": True},
        {"name": "picture", "image": "a.png", "expect_label": "l1"},
    )
    assert not any(answer.right for answer in answers)
    for answer, text in zip(answers, ("nobody", "dim 1", "typo", "ready-made vectors"), strict=True):
        assert text in answer.said


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "line 2: not valid JSON"),
        ({"name": "b", "id": "x"}, "line 2: .*none of expect_id, expect_label, expect_none"),
        ({"name": "b", "expect_none": True}, "line 2: .*none of id, vector, image"),
        ({"name": "b", "id": "x", "vector": [1], "expect_id": "y"}, "line 2: .*id and vector"),
        ({"name": "b", "id": "x", "expect_id": "y", "expect_none": True}, "line 2: .*expect_id and expect_none"),
        ({"name": "b", "id": "x", "expect": "y"}, "line 2: expect: "),
        ({"name": "b", "id": "x", "k": 0, "expect_id": "y"}, "line 2: k: "),
        ({"name": "b", "vector": [], "expect_id": "y"}, "line 2: vector: "),
        ({"id": "x", "expect_id": "y"}, "line 2: name: "),
        ({"name": "a", "id": "x", "expect_id": "y"}, "line 2: a second canary query 'a'"),
    ],
)
def test_malformed_lines_are_refused_by_number(tmp_path, line, text):
    path = written(tmp_path / "c.jsonl", {"name": "a", "id": "x", "expect_none": True}, line)
    with pytest.raises(ConfigError, match=text):
        load_canaries(path)


def test_a_missing_or_empty_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_canaries(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="no canary query"):
        load_canaries(written(tmp_path / "c.jsonl", ""))


# --- the encoder ---------------------------------------------------------------------------------------------------


def encoder(weights: np.ndarray):
    return lambda inputs, training: np.asarray(inputs, np.float32).reshape(len(inputs), -1) @ weights


@pytest.fixture
def kept() -> tuple[EncoderCanaries, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 5)).astype(np.float32)
    inputs = rng.integers(0, 255, (4, 3, 4)).astype(np.uint8)
    return EncoderCanaries(ENCODER, np.array(["a", "b", "c", "d"]), inputs, encoder(weights)(inputs, False)), weights


def test_the_same_encoder_passes_up_to_float_noise(kept):
    canaries, weights = kept
    canaries.check(encoder(weights))
    canaries.check(encoder(weights * np.float32(1.001)))


def test_another_encoder_is_refused(kept):
    canaries, weights = kept
    for model, text in (
        (encoder(weights[:, ::-1]), "of its length away"),
        (encoder(weights * np.float32(1.05)), "of its length away"),
        (encoder(np.full_like(weights, np.nan)), "of its length away"),
        (encoder(weights[:, :4]), "dim 4 instead of 5"),
    ):
        with pytest.raises(IncompatibleError, match=text):
            canaries.check(model)


def test_the_file_is_the_same_each_time_and_is_refused_where_it_is_damaged(kept, tmp_path):
    canaries, _ = kept
    canaries.save(tmp_path / "a.npz")
    canaries.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = EncoderCanaries.load(tmp_path / "a.npz")
    assert again.encoder == ENCODER
    np.testing.assert_array_equal(again.inputs, canaries.inputs)
    for name, data in (("c.npz", b"PK no zip"), ("d.npz", (tmp_path / "a.npz").read_bytes()[:-40])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ContractError, match="no inputs with embeddings"):
            EncoderCanaries.load(tmp_path / name)
    pickled = replace(canaries, ids=np.array([{"a": 1}], object))
    np.savez(tmp_path / "e.npz", **pickled.__dict__)
    with pytest.raises(ContractError, match="no inputs with embeddings"):
        EncoderCanaries.load(tmp_path / "e.npz")


def test_a_release_s_inputs_are_checked_and_one_without_them_says_so(kept, opened, tmp_path):
    canaries, weights = kept
    assert not check_canaries(opened, encoder(weights))
    make_release(tmp_path, np.eye(3, dtype=np.float32), Router(1))
    folder = releases.releases_folder(tmp_path) / RELEASE
    canaries.save(folder / CANARIES_NPZ)
    _, manifest = releases.find(tmp_path, RELEASE)
    searcher = Searcher(folder, manifest.with_files(folder, [CANARIES_NPZ]))
    assert check_canaries(searcher, encoder(weights))
    with pytest.raises(IncompatibleError, match="does not embed as it did"):
        check_canaries(searcher, encoder(-weights))
    files.write_bytes(folder / CANARIES_NPZ, b"other")
    fresh = Searcher(folder, searcher.manifest)
    with pytest.raises(releases.ReleaseError, match="bytes"):
        check_canaries(fresh, encoder(weights))
