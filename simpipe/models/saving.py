"""Models on disk: `.keras` files, and folders that hold a model with its index.

FOLDER/model.keras, FOLDER/index/{releases, live.json}        model.save("FOLDER")
NAME.keras, NAME.index/{releases, live.json}                  model.save("NAME.keras")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.errors import ConfigError, ContractError
from simpipe.manifest import MANIFEST_JSON
from simpipe.releases import LIVE_JSON

MODEL_FILE = "model.keras"
_FILES = (".keras", ".h5", ".hdf5")


def index_root(filepath: str | Path, *, saving: bool = False) -> Path:
    """The root of the index that belongs to a saved model; the path itself where it is a root or a release already."""
    path = files.local(filepath)
    if path.suffix in _FILES:
        return path.with_suffix(".index")
    itself = not saving and any((path / name).exists() for name in (LIVE_JSON, MANIFEST_JSON))
    return path if itself else path / "index"


def save_model(save: Callable[..., None], filepath: str | Path, *, overwrite: bool, **kwargs: Any) -> None:
    """Saves by Keras' `save`; into a folder as `model.keras`, in one move.

    Raises:
      ConfigError: there is a model and `overwrite` is False.
    """
    path = files.local(filepath)
    if path.suffix in _FILES:
        save(str(filepath), overwrite=overwrite, **kwargs)
        return
    if (path / MODEL_FILE).exists() and not overwrite:
        raise ConfigError(f"{path}: holds a model already", "pass overwrite=True, or another path")
    with files.replacing(path / MODEL_FILE) as temporary:
        save(str(temporary), overwrite=True, **kwargs)


def load_model(filepath: str | Path, custom_objects: dict[str, Any] | None = None, compile: bool = True) -> Any:
    """Loads a model that `save` wrote, with its index where one was saved. Code in the file is never run (safe mode).

    Args:
      filepath: the folder or `.keras` file given to `save`.
      custom_objects: Keras'; simpipe's own classes need none.
      compile: whether the optimizer and loss come back.

    Raises:
      ContractError: there is no model. IncompatibleError: the index is another model's.
    """
    import keras

    import simpipe.layers
    import simpipe.losses
    import simpipe.models
    import simpipe.training_metrics  # noqa: F401  all register their classes

    path = files.local(filepath)
    file = path if path.suffix in _FILES else path / MODEL_FILE
    if not file.exists():
        raise ContractError(f"{file}: there is no saved model", "give the path that model.save got")
    loaded: Any = keras.saving.load_model(file, custom_objects=custom_objects, compile=compile, safe_mode=True)
    root = index_root(filepath)
    if hasattr(loaded, "load_index") and (root / LIVE_JSON).exists():
        loaded.load_index(root)
    return loaded
