"""Class-balanced batches: the pipeline's shards, arrays in memory, image files, catalogue data sets, `tf.data`, TFRecords.

Nothing is imported before it is used: `simpipe.samplers.plan` and `simpipe.samplers.step_plan` need NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simpipe.samplers.arguments import SamplerError as SamplerError
    from simpipe.samplers.file_samplers import MultiShotFileSampler as MultiShotFileSampler
    from simpipe.samplers.file_samplers import load_image as load_image
    from simpipe.samplers.memory_samplers import MultiShotMemorySampler as MultiShotMemorySampler
    from simpipe.samplers.memory_samplers import SingleShotMemorySampler as SingleShotMemorySampler
    from simpipe.samplers.sampler import Augmenter as Augmenter
    from simpipe.samplers.sampler import Sampler as Sampler
    from simpipe.samplers.selection import select_examples as select_examples
    from simpipe.samplers.shard_sampler import ShardSampler as ShardSampler
    from simpipe.samplers.tfdata_sampler import TFDataSampler as TFDataSampler
    from simpipe.samplers.tfdataset_samplers import TFDatasetMultiShotMemorySampler as TFDatasetMultiShotMemorySampler
    from simpipe.samplers.tfrecords_samplers import TFRecordDatasetSampler as TFRecordDatasetSampler

_LAZY = {
    "Augmenter": "sampler",
    "MultiShotFileSampler": "file_samplers",
    "MultiShotMemorySampler": "memory_samplers",
    "Sampler": "sampler",
    "SamplerError": "arguments",
    "ShardSampler": "shard_sampler",
    "SingleShotMemorySampler": "memory_samplers",
    "TFDataSampler": "tfdata_sampler",
    "TFDatasetMultiShotMemorySampler": "tfdataset_samplers",
    "TFRecordDatasetSampler": "tfrecords_samplers",
    "load_image": "file_samplers",
    "select_examples": "selection",
}

__all__ = [
    "Augmenter",
    "MultiShotFileSampler",
    "MultiShotMemorySampler",
    "Sampler",
    "SamplerError",
    "ShardSampler",
    "SingleShotMemorySampler",
    "TFDataSampler",
    "TFDatasetMultiShotMemorySampler",
    "TFRecordDatasetSampler",
    "load_image",
    "select_examples",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"simpipe.samplers.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'simpipe.samplers' has no attribute {name!r}")
