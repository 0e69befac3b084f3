"""simpipe: from a data set to a published, calibrated similarity index.

Importing the package loads neither TensorFlow nor Beam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from simpipe.client import Client as Client
    from simpipe.config import Config as Config
    from simpipe.config import load_config as load_config
    from simpipe.errors import SimpipeError as SimpipeError
    from simpipe.index.searcher import Searcher as Searcher
    from simpipe.index.searcher import neighbors_table as neighbors_table
    from simpipe.index.searcher import open_release as open_release

# Loaded when first named, so that `import simpipe as tfsim; tfsim.losses.TripletLoss()` works as it did there.
_MODULES = frozenset(
    (
        "architectures",
        "augmenters",
        "callbacks",
        "classification_metrics",
        "distances",
        "evaluators",
        "indexer",
        "layers",
        "losses",
        "matchers",
        "models",
        "retrieval_metrics",
        "samplers",
        "schedules",
        "search",
        "training_metrics",
        "types",
        "utils",
        "visualization",
    )
)
_LAZY = {
    "Client": "simpipe.client",
    "Config": "simpipe.config",
    "load_config": "simpipe.config",
    "SimpipeError": "simpipe.errors",
    "Searcher": "simpipe.index.searcher",
    "neighbors_table": "simpipe.index.searcher",
    "open_release": "simpipe.index.searcher",
}

__all__ = ["Client", "Config", "Searcher", "SimpipeError", "__version__", "load_config", "neighbors_table", "open_release"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"simpipe.{name}")
    raise AttributeError(f"module 'simpipe' has no attribute {name!r}")
