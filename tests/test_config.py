"""Configuration: every mistake is named with its path; overrides; the committed files load."""

from __future__ import annotations

import pytest
from conftest import REPOSITORY

from simpipe.config import load_config, parse_config
from simpipe.errors import ConfigError


def test_all_mistakes_at_once():
    raw = {"name": "x", "source": "digits", "sead": 1, "train": {"epochs": 0, "loss": {"kind": "triplet", "marjin": 1}}}
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, "x.yaml")
    text = str(caught.value)
    assert "4 mistakes" in text
    for line in ("root: missing", "sead: unknown key", "train.epochs:", "train.loss.marjin: unknown key"):
        assert line in text
    assert caught.value.exit_code == 2


def test_overrides_change_values_and_kinds(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nroot: r\nsource: digits\nbuild: {backend: {kind: scann, leaves: 7}}\n")
    config = load_config(path, ["build.backend.kind=nmslib", "build.backend.m=24", "classes.train=['0-7']", "seed=3"])
    assert config.build.backend.kind == "nmslib"
    assert config.build.backend.m == 24
    assert config.classes.train == ("0-7",)
    assert config.seed == 3


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=1", "name.x=1", "seed=[1"])
def test_bad_overrides(tmp_path, override):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nroot: r\nsource: digits\n")
    with pytest.raises(ConfigError):
        load_config(path, [override])


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", ""])
def test_files_that_are_no_configuration(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load_config(path)


def test_short_source_and_frozen():
    config = parse_config({"name": "x", "root": "r", "source": "tfds:mnist"})
    assert (config.source.kind, config.source.name) == ("tfds", "mnist")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


def test_committed_configurations_load():
    names = {path.name for path in (REPOSITORY / "configs").glob("*.yaml")}
    assert {"digits.yaml", "omniglot.yaml"} <= names
    for name in names:
        assert load_config(REPOSITORY / "configs" / name).name
