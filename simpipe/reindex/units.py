"""What is compared with a release: blocks of ready-made vectors, or shards of examples and the encoder that embeds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.data.examples import DatasetInfo, ShardInfo
from simpipe.data.vectors import VectorPlan, plan_vectors
from simpipe.embed import EmbedSpec
from simpipe.embeddings import NO_ENCODER
from simpipe.errors import ContractError, IncompatibleError
from simpipe.import_vectors import ImportSpec, named_classes
from simpipe.manifest import Manifest
from simpipe.training.encoder import EncoderInfo
from simpipe.types import SPLITS


@dataclass(frozen=True)
class Present:
    """What there is now.

    Attributes:
      source: ready-made vectors; else:
      examples: an examples data set, of which all splits count, and encoder: the folder of the encoder that embeds it.
      deltas: only what was added or changed is present: absence deletes nothing. Neither source nor examples: nothing was.
      deleted: a folder of ids to drop: `*.parquet` with a column `id`, `*.txt` with one id a line.
    """

    source: VectorsSource | None = None
    examples: Path | None = None
    encoder: Path | None = None
    deltas: bool = False
    deleted: Path | None = None


@dataclass(frozen=True)
class ShardUnit:
    """A shard of examples and its split."""

    path: str
    info: ShardInfo
    split: str


@dataclass(frozen=True)
class ClassFilter:
    """Which examples are indexed: `names` (None: all), and those without a label."""

    names: frozenset[str] | None
    unlabelled: bool


@dataclass(frozen=True)
class VectorUnits:
    """Blocks of ready-made vectors."""

    source: VectorsSource
    plan: VectorPlan
    spec: ImportSpec


@dataclass(frozen=True)
class ExampleUnits:
    """Shards of examples and the encoder that embeds them."""

    shards: tuple[ShardUnit, ...]
    spec: EmbedSpec
    encoder: str
    classes: ClassFilter


Units = VectorUnits | ExampleUnits | None  # None: there is nothing but ids to drop


@dataclass(frozen=True)
class About:
    """What embeddings are like: `encoder` is its fingerprint, or `none`."""

    dim: int
    distance: str
    encoder: str
    metadata: tuple[str, ...]


def open_units(config: Config, present: Present) -> Units:
    """What is scanned: blocks of vectors, shards of examples, or nothing."""
    if present.source is not None:
        spec = ImportSpec(config.queries.fraction, config.seed, named_classes(config.classes.index))
        return VectorUnits(present.source, plan_vectors(present.source), spec)
    if present.examples is None:
        return None
    if present.encoder is None:
        raise ContractError(f"{present.examples}: no encoder to embed these examples", "name the encoder's folder")
    info, about = DatasetInfo.load(present.examples), EncoderInfo.load(present.encoder)
    if about.input != info.input:
        raise ContractError(
            f"{present.encoder}: reads {about.input}, the examples hold {info.input}", "run `simpipe train` again"
        )
    shards = [
        ShardUnit(str(path), shard.bare(), split) for split in SPLITS for path, shard in info.shards(present.examples, split)
    ]
    spec = EmbedSpec(info.without_shards(), about.dim, about.distance, about.fingerprint, config.embed.batch_size)
    return ExampleUnits(tuple(shards), spec, str(present.encoder), _class_filter(config, present))


def _class_filter(config: Config, present: Present) -> ClassFilter:
    """Of a whole source, sharding has left out what is not indexed; of changes it has not: classes may be absent there."""
    trained, indexed = named_classes(config.classes.train), named_classes(config.classes.index)
    if not present.deltas or trained is None or indexed is None:
        return ClassFilter(None, True)
    return ClassFilter(trained | indexed, config.classes.train_unlabelled)


def about_release(manifest: Manifest) -> About:
    """What the vectors of a release are like."""
    return About(manifest.dim, manifest.distance, manifest.encoder.fingerprint, manifest.metadata)


def describe(units: Units, manifest: Manifest) -> About:
    """What the embeddings would be like; as those in the release where there is nothing to embed."""
    if units is None:
        return about_release(manifest)
    if isinstance(units, VectorUnits):
        return About(units.plan.dim, units.source.distance, NO_ENCODER, tuple(field.name for field in units.plan.metadata))
    return About(units.spec.dim, units.spec.distance, units.spec.encoder, tuple(units.spec.info.metadata))


def about_embeddings(units: Units, manifest: Manifest) -> About:
    """What the embeddings are like, which must be as in the release.

    Raises:
      IncompatibleError: they differ.
    """
    now, live = describe(units, manifest), about_release(manifest)
    for name, value in vars(now).items():
        before = getattr(live, name)
        if value != before and (name != "metadata" or sorted(value) != sorted(before)):
            raise IncompatibleError(
                f"release {manifest.release} has {name} {before}, what is present has {value}",
                "run `simpipe run`: everything must be built anew",
            )
    return now
