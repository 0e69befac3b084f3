"""A root of small pictures with an encoder that was not trained: two releases, the second a re-index of the first."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make_examples import make_examples
from PIL import Image
from release_maker import make_release

from simpipe import releases
from simpipe.embeddings import EmbeddingsInfo
from simpipe.ids import bucket_of
from simpipe.index.router import Router
from simpipe.manifest import Manifest, ManifestEncoder
from simpipe.training.encoder import save_encoder

ITEMS, SHAPE = 40, (6, 5, 1)
FIRST, SECOND = "20250101T000000Z-aaaaaa", "20250102T000000Z-bbbbbb"


@dataclass(frozen=True)
class PictureRoot:
    """`pictures`: what each item looks like, uint8[6, 5], by release and id."""

    root: Path
    pictures: dict[str, dict[str, np.ndarray]]


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def make_picture_root(root: Path) -> PictureRoot:
    """Items `i0`, `i1`, ... In the second release, which is live, the first three were changed and embedded anew."""
    import keras

    x = np.random.default_rng(0).integers(0, 256, (ITEMS, *SHAPE)).astype(np.uint8)
    changed = x.copy()
    changed[:3] = 255 - x[:3]
    keras.utils.set_random_seed(0)
    layers = [keras.Input(SHAPE, dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    info = _examples(root, "a", x)
    _examples(root, "b", changed[:3])
    fields = {"dim": 4, "distance": "euclidean", "train_classes": ("0",), "training": {}, "history": {}, "metrics": {}}
    encoder = save_encoder(model, root / "encoders" / "tiny", key="tiny", input=info.input, **fields)
    for name, letter, pictures in ((FIRST, "a", x), (SECOND, "b", changed)):
        made = {"examples": letter * 64} if letter == "a" else {"examples": letter * 64, "base": FIRST}
        about = {"dim": 4, "distance": "euclidean", "encoder": encoder.fingerprint, "files": (), "counts": {}}
        vectors = root / "embeddings" / (letter * 12)
        vectors.mkdir(parents=True)
        EmbeddingsInfo(key=letter * 64, provenance=made, **about).save(vectors)
        make_release(root, np.asarray(model(pictures), np.float32), Router(2), release=name, publish=False)
        folder = root / "releases" / name
        provenance = {"embeddings": letter * 64, **({} if letter == "a" else {"reindex": {"base": FIRST}})}
        own = ManifestEncoder(fingerprint=encoder.fingerprint, folder="encoders/tiny")
        Manifest.load(folder).model_copy(update={"encoder": own, "provenance": provenance}).save(folder)
        releases.publish(root, name, needed_steps=())
    shown = {FIRST: x, SECOND: changed}
    return PictureRoot(
        root, {name: {f"i{row}": picture[..., 0] for row, picture in enumerate(own)} for name, own in shown.items()}
    )


def _examples(root: Path, letter: str, pictures: np.ndarray):
    rows = np.arange(len(pictures))
    ids = [f"i{row}" for row in rows]
    none = rows % 7 == 0  # the labels of `release_maker`
    classes = np.array([f"l{row % 5}" for row in rows])
    places = {"split": rows % 2, "shard_of": bucket_of(ids, 2)}
    return make_examples(root / "examples" / (letter * 12), pictures, classes, ids=ids, unlabelled=none, **places)
