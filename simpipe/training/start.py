"""Fine-tuning: training begins with the weights of an earlier encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.config.models import EncoderConfig
from simpipe.data.examples import InputSpec
from simpipe.errors import ConfigError
from simpipe.training.encoder import EncoderInfo, load_model

_FIELD = "train.start_from"


def load_start(path: str, encoder: Any, *, spec: InputSpec, settings: EncoderConfig) -> EncoderInfo:
    """Gives `encoder` the weights of the encoder in the folder `path`, and returns what that one is.

    Raises:
      ConfigError: it takes other inputs, has another length of embeddings, or is of another architecture; names both.
      ContractError: there is none, or its files were altered.
    """
    folder = files.located(path)
    info = EncoderInfo.load(folder)
    _same(folder, "takes inputs", _shown(info.input), _shown(spec), "train on examples of the same shape and dtype")
    _same(folder, "has dim", info.dim, settings.dim, f"set train.encoder.dim: {info.dim}")
    model, _ = load_model(folder)
    theirs, ours = _shapes(model), _shapes(encoder)
    if theirs != ours:
        before, now = info.training.get("encoder", "another architecture"), settings.model_dump(mode="json")
        _same(folder, "has the architecture", f"{before} ({len(theirs)} weights)", f"{now} ({len(ours)} weights)", "set it alike")
    encoder.set_weights(model.get_weights())
    return info


def _same(folder: Path, what: str, theirs: Any, ours: Any, cure: str) -> None:
    if theirs != ours:
        raise ConfigError(f"{_FIELD}: the encoder in {folder} {what} {theirs}, this run's is {ours}", cure)


def _shown(spec: InputSpec) -> str:
    return f"{list(spec.shape)} of {spec.dtype}" + (" inverted" if spec.inverted else "")


def _shapes(model: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in model.weights]
