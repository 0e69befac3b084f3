"""The configuration: one YAML file describes the whole line. Frozen, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simpipe.config.base import Above0, Distance, Fraction, Model, Positive
from simpipe.config.index import BuildConfig, RejectLimit, SearchConfig
from simpipe.config.losses import Loss, MultiSimilarityConfig
from simpipe.config.measure import CalibrateConfig, DedupeConfig, EvaluateConfig
from simpipe.config.plan import PlanConfig
from simpipe.config.recipes import EarlyStopping, Recipe, SupervisedRecipe
from simpipe.config.release import GatesConfig, ReindexConfig
from simpipe.config.runner import LocalRunner, Runner
from simpipe.config.serve import ServeConfig

# --- sources -----------------------------------------------------------------------------------------------------


class DigitsSource(Model):
    """scikit-learn's bundled handwritten digits: 1,797 real 8x8 images, no download."""

    kind: Literal["digits"]


class NpzSource(Model):
    """Arrays of one `.npz`. `y` has shape [n] or [classes, per_class]; `x` starts with the same axes."""

    kind: Literal["npz"]
    path: str
    x: str = "x"
    y: str = "y"
    ids: str | None = None
    resize: tuple[Positive, Positive] | None = None
    invert: bool = False


class FolderSource(Model):
    """Images in folders; the label is the folder's path relative to `path`, the id the file's."""

    kind: Literal["folder"]
    path: str
    resize: tuple[Positive, Positive]
    channels: Literal[1, 3] = 3


class ParquetSource(Model):
    """Parquet files: either an image-bytes column or numeric columns, with id, label and metadata columns."""

    kind: Literal["parquet"]
    path: str
    id: str = "id"
    label: str | None = "label"
    image: str | None = None
    columns: tuple[str, ...] = ()
    resize: tuple[Positive, Positive] | None = None
    channels: Literal[1, 3] = 3
    metadata: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_input(self) -> ParquetSource:
        if bool(self.image) == bool(self.columns):
            raise ValueError("give either `image` (a column of encoded images) or `columns` (numeric columns)")
        if self.image and self.resize is None:
            raise ValueError("`image` needs `resize: [height, width]`")
        return self


class TfdsSource(Model):
    """A TensorFlow Datasets name, as in `tfds:mnist`; `data_dir` where it is prepared already."""

    kind: Literal["tfds"]
    name: str
    split: str = "all"
    image: str = "image"
    label: str = "label"
    data_dir: str | None = None
    resize: tuple[Positive, Positive] | None = None


class TfrecordSource(Model):
    """Existing TFRecord files of `tf.train.Example`; says which features hold what."""

    kind: Literal["tfrecord"]
    path: str
    input: str = "image"
    label: str | None = "label"
    id: str | None = None
    shape: tuple[Positive, ...]
    encoding: Literal["raw", "image", "float"] = "image"
    compression: Literal["", "GZIP"] = ""


class VectorsSource(Model):
    """Ready-made vectors: `.npy`, `.npz` or Parquet. No model, no TensorFlow.

    For `.npy`, `ids` and `labels` are `.npy` or one-value-a-line text files of the same length; for `.npz` array
    names; for Parquet column names.
    """

    kind: Literal["vectors"]
    path: str
    vectors: str = "embedding"
    ids: str | None = None
    labels: str | None = None
    metadata: tuple[str, ...] = ()
    distance: Distance = "cosine"


Source = Annotated[
    DigitsSource | NpzSource | FolderSource | ParquetSource | TfdsSource | TfrecordSource | VectorsSource,
    Field(discriminator="kind"),
]


# --- steps -------------------------------------------------------------------------------------------------------

ClassList = Literal["all"] | tuple[str, ...]


class ClassLists(Model):
    """Which classes train the encoder and which are indexed; `"0-7"` is a range of integer class names.

    `train_unlabelled`: examples without a label are trained on too, for recipes that need no labels.
    """

    train: ClassList = "all"
    index: ClassList = "all"
    train_unlabelled: bool = False


class Queries(Model):
    """The share of items held out as queries; they are neither trained on nor indexed."""

    fraction: Fraction = 0.1


class ShardConfig(Model):
    """How examples are written.

    A class's training examples lie together, in runs of at least `class_run` before the class is spread over several
    shards; no train shard holds one class only unless `one_class_shards` allows it.
    """

    num_shards: Positive = 4
    compression: Literal["", "gzip"] = "gzip"
    block_rows: Positive = 4096
    class_run: Positive = 256
    one_class_shards: bool = False


class HardClasses(Model):
    """Batches of near classes: `share` of each batch's classes comes in bundles of neighbors.

    Neighbors are the nearest class centroids by the encoder as it is after each `every` epochs; before that, by those
    of the encoder that training starts from, if any. `examples` of each class make its centroid.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    bundle: Annotated[int, Field(ge=2)] = 8
    every: Positive = 1
    examples: Positive = 8


class SamplerConfig(Model):
    """A batch holds exactly `classes_per_batch` classes with `examples_per_class` distinct examples each.

    `weighting` says how often a class is drawn: equally, by the root of its size, or by its size (then a pass over the
    data deals each example once). At most `open_blocks` blocks of `block_examples` examples are in memory (null: as
    many as 4 MiB hold, 1024 at most). `small_classes`: what becomes of classes with fewer than `examples_per_class`
    examples. `skip_corrupt` is the largest share of records that may be left out because they cannot be read.
    `ignore_labels`: all examples count as one class, for recipes that need no labels.
    """

    classes_per_batch: Positive = 8
    examples_per_class: Positive = 8
    weighting: Literal["uniform", "sqrt", "proportional"] = "uniform"
    small_classes: Literal["error", "skip", "repeat"] = "error"
    open_blocks: Annotated[int, Field(ge=2)] = 64
    block_examples: Positive | None = None
    skip_corrupt: Fraction = 0.0
    ignore_labels: bool = False
    hard_classes: HardClasses | None = None


class EncoderConfig(Model):
    """The network before the `MetricEmbedding` layer. `conv4` and `resnet8` for images, `mlp` for numeric columns.

    `views`: the saved encoder's embedding is the mean over the image and so many affine changes of it, fixed ones within
    the bounds of `train.augment`. Each costs as much as the image itself when embeddings are computed, nothing in training.
    """

    architecture: Literal["conv4", "resnet8", "mlp"] = "conv4"
    filters: Positive = 64
    dim: Positive = 64
    views: Annotated[int, Field(ge=0)] = 0


class AugmentConfig(Model):
    """Random change of each training image, affine and elastic; all zero means none.

    `turns`: classes turned by 90° are classes too.
    """

    rotate: Annotated[float, Field(ge=0, description="degrees, plus or minus")] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1, description="share, plus or minus")] = 0.0
    shear: Annotated[float, Field(ge=0, description="degrees, plus or minus")] = 0.0
    translate: Annotated[float, Field(ge=0, lt=1, description="share of the side, plus or minus")] = 0.0
    elastic: Annotated[float, Field(ge=0, lt=0.5, description="standard deviation of local shifts, share of the side")] = 0.0
    turns: bool = False


class TrainConfig(Model):
    """How the encoder is trained; docs/training.md tells more.

    `steps_per_epoch`: null makes an epoch one pass of the sampler over the data. The learning rate rises from 0 for
    `warmup_steps`, then stays (`constant`) or falls to 0 by half a cosine. `weight_decay` (of `adamw` and `sgd`) leaves
    biases, norms and proxies alone. `clip_norm` bounds the norm of the whole gradient of the global batch. `precision`:
    what the network computes in; weights, embeddings and the saved encoder are float32. `ema`: the saved encoder has the
    moving average of the weights, `ema` of the old and the rest of the new after each step. `start_from`: the folder of
    an encoder of the same shape whose weights training begins with. `backup_every`: steps between backups (null: one
    after each epoch). `tensorboard`: curves in the encoder's folder `logs`.
    """

    recipe: Recipe = SupervisedRecipe(kind="supervised")
    encoder: EncoderConfig = EncoderConfig()
    start_from: str | None = None
    sampler: SamplerConfig = SamplerConfig()
    loss: Loss = MultiSimilarityConfig(kind="multi_similarity")
    augment: AugmentConfig = AugmentConfig()
    epochs: Positive = 10
    steps_per_epoch: Positive | None = 100
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Above0 = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd")] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Above0 | None = None
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    early_stopping: EarlyStopping | None = None
    backup_every: Positive | None = None
    tensorboard: bool = False

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        moves = self.augment.model_dump(include={"rotate", "scale", "shear", "translate"})
        if self.encoder.views and not any(moves.values()):
            raise ValueError("`encoder.views` are drawn within `augment`: set rotate, scale, shear or translate there")
        if self.optimizer == "adam" and self.weight_decay:
            raise ValueError("`optimizer: adam` has no weight_decay: use `adamw`")
        if self.recipe.kind == "supervised":
            if self.sampler.ignore_labels:
                raise ValueError("`sampler.ignore_labels` goes with a `recipe` without labels, such as simclr")
        elif self.sampler.hard_classes:
            raise ValueError(f"`recipe: {self.recipe.kind}` uses no labels: leave out sampler.hard_classes")
        elif self.augment.turns:
            raise ValueError(f"`recipe: {self.recipe.kind}` uses no labels: leave out augment.turns")
        return self


class EmbedConfig(Model):
    batch_size: Positive = 256
    rejects: RejectLimit = RejectLimit()


class ReportConfig(Model):
    queries: Positive = 10
    neighbors: Positive = 5
    projection_items: Positive = 1500


class Config(Model):
    """The whole line. `root` is where its data sets, releases and pointer live."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    root: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    source: Source
    classes: ClassLists = ClassLists()
    queries: Queries = Queries()
    rejects: RejectLimit = RejectLimit()
    shard: ShardConfig = ShardConfig()
    train: TrainConfig = TrainConfig()
    embed: EmbedConfig = EmbedConfig()
    build: BuildConfig = BuildConfig()
    search: SearchConfig = SearchConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    dedupe: DedupeConfig = DedupeConfig()
    reindex: ReindexConfig = ReindexConfig()
    gates: GatesConfig = GatesConfig()
    report: ReportConfig = ReportConfig()
    runner: Runner = LocalRunner(kind="local")
    plan: PlanConfig = PlanConfig()
    serve: ServeConfig = ServeConfig()
