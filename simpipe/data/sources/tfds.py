"""TensorFlow Datasets by name. `tensorflow_datasets` and TensorFlow are imported only when such a source is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.config.models import TfdsSource
from simpipe.data.examples import InputSpec
from simpipe.data.sources import base
from simpipe.data.sources.base import IMAGE, SourceBlock
from simpipe.data.sources.images import check_images
from simpipe.errors import SourceError
from simpipe.types import Reject


class Tfds:
    """See `TfdsSource`. Ids are `NAME-SPLIT-000123`, the row number in the whole split, in the order of its files.

    Raises:
      SourceError: not installed, no such name, not prepared and not to be had, or a feature or split is missing.
    """

    metadata: tuple[pa.Field, ...] = ()

    def __init__(self, config: TfdsSource) -> None:
        self.config = config
        self.builder = _prepared(config)
        features = self.builder.info.features
        for field, name in (("image", config.image), ("label", config.label)):
            if name not in features:
                raise SourceError(
                    f"source.{field}: data set {config.name!r} has no feature {name!r}", f"there are {sorted(features)}"
                )
        height, width, channels = (*(features[config.image].shape or ()), None, None, None)[:3]
        size: Any = config.resize or (height, width)
        if None in size or (channels or 3) not in (1, 3):
            shape = list(features[config.image].shape or ())
            raise SourceError(
                f"source.image: feature {config.image!r} of {config.name!r} has shape {shape}",
                "name an image feature of 1 or 3 channels; where its size varies, give `resize: [height, width]`",
            )
        self.input = InputSpec(name=IMAGE, shape=(*size, channels or 3), dtype="uint8", encoding="image")

    def blocks(self, rows: int) -> list[SourceBlock]:
        import tensorflow_datasets as tfds

        splits = self.builder.info.splits
        try:
            wanted = tfds.core.ReadInstruction.from_spec(self.config.split).to_absolute(splits)
        except (ValueError, KeyError, AssertionError) as error:
            raise SourceError(f"source.split: {self.config.split!r}: {error}", f"use `all`, or one of {sorted(splits)}") from None
        blocks: list[SourceBlock] = []
        for part in wanted:
            total = splits[part.splitname].num_examples
            start, stop = part.from_ or 0, total if part.to is None else part.to
            blocks += base.row_blocks(part.splitname, rows, max(0, stop - start), first=start, index=len(blocks))
        return blocks

    def read(self, block: SourceBlock) -> tuple[pa.Table, list[Reject]]:
        import tensorflow_datasets as tfds

        config = self.config
        data = self.builder.as_dataset(
            split=f"{block.name}[{block.start}:{block.stop}]",
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=False, try_autocache=False),
            decoders={config.image: tfds.decode.SkipDecoding()},
        )
        data = data.map(lambda example: {"image": example[config.image], "label": example[config.label]})
        batches = list(data.batch(512).as_numpy_iterator())
        inputs, problem = check_images([value for batch in batches for value in batch["image"].tolist()], self.input.shape[2])
        raw = np.concatenate([batch["label"] for batch in batches]) if batches else np.empty(0, np.int64)
        numbers = np.arange(block.start, block.start + len(raw))
        ids = base.numbered(f"{config.name.replace('/', '-')}-{block.name}-", numbers, 6)
        sources = base.numbered(f"{config.name} {block.name} example ", numbers)
        labels, odd = self._labels(raw)
        table = pa.Table.from_arrays([ids, labels, inputs, sources], schema=base.table_schema(self.input))
        return base.sift(table, [problem, (odd, "bad-text", "the label is not UTF-8")])

    def _labels(self, raw: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        feature = self.builder.info.features[self.config.label]
        if raw.ndim == 1 and hasattr(feature, "int2str"):
            names = pa.array([feature.int2str(index) for index in range(feature.num_classes)], pa.string())
            known = (raw >= 0) & (raw < len(names))  # -1 is TFDS's mark of an unlabelled example
            return names.take(pa.array(raw, pa.int64(), mask=~known)), np.zeros(len(raw), bool)
        if raw.ndim != 1:
            raise SourceError(
                f"source.label: feature {self.config.label!r} has several values an example", "name a single-valued feature"
            )
        return base.as_text(pa.array(raw.tolist() if raw.dtype == object else raw), f"feature {self.config.label!r}")


def _builder(config: TfdsSource) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise SourceError("source.kind: tfds needs tensorflow_datasets", "pip install 'simpipe[tfds]'") from None
    try:
        return tfds.builder(config.name, data_dir=config.data_dir)
    except Exception as error:  # unknown names, broken folders and missing extras each have their own kind
        first = str(error).partition("\n")[0]
        raise SourceError(
            f"source.name: no TensorFlow data set {config.name!r}: {first}",
            "check the name, or give source.data_dir, the folder that holds NAME/VERSION of a prepared one",
        ) from None


def _is_prepared(builder: Any) -> bool:
    return bool(builder.info.splits) and builder.data_path.exists()


def _prepared(config: TfdsSource) -> Any:
    builder = _builder(config)
    if _is_prepared(builder):
        return builder
    try:
        builder.download_and_prepare()
    except Exception as error:  # download, disk and dependency errors of any kind
        raise SourceError(
            f"source.name: data set {config.name!r} is not prepared in {builder.data_path}, and preparing it failed: "
            f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            "run `tfds build` where there is a network, and give the folder as source.data_dir",
        ) from None
    return builder


def fingerprint(config: TfdsSource) -> dict[str, Any]:
    """Name, version and `data_dir`; sizes of the splits where the data set is prepared. Downloads nothing."""
    builder = _builder(config)
    sizes = {name: split.num_examples for name, split in sorted(builder.info.splits.items())}
    return {"name": config.name, "version": str(builder.version), "data_dir": config.data_dir, "splits": sizes or None}
