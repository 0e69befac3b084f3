"""Self-supervised training on two views of each example."""

from __future__ import annotations

import logging
from typing import Any

import keras
import tensorflow as tf

from simpipe.errors import ConfigError
from simpipe.losses.gather import sum_replicas
from simpipe.models.index_api import IndexApi
from simpipe.models.loss_state import LossState
from simpipe.models.projector import get_predictor, get_projector

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
_LOG = logging.getLogger(__name__)
_EPSILON = 1e-12
ALGORITHMS = ("simsiam", "simclr", "barlow", "vicreg")


@keras.saving.register_keras_serializable(package="simpipe")
class ContrastiveModel(IndexApi, LossState, keras.Model):  # pyright: ignore[reportIncompatibleMethodOverride]  # save
    """A backbone and a projector that learn from pairs of views; with the index API of `SimilarityModel`.

    `compile(optimizer, loss)` takes a loss `loss(a, b)` of two embeddings: `SimSiamLoss`, `SimCLRLoss`, `Barlow`,
    `VicReg` of `simpipe.losses`. `fit` takes batches `(view1, view2)`, or of one batch of examples, which is passed
    twice and must differ by layers of the backbone that are random in training. With z the projections and p the
    predictions of the views it minimises, for "simsiam", `loss(stop(z1), p2) + loss(stop(z2), p1)` (Chen and He 2021,
    algorithm 1), and else `loss(z1, z2)`; and the regularization losses of the parts. Logged are `loss`, and its two
    summands `contrastive_loss` and `regularization_loss`. Metrics given to `compile` get z1 and p2 (or z2).

    `predict(x)`, and with it the index, is the projector's output scaled to rows of length one: float32[n, dim].

    Under `tf.distribute` all that is logged and learned is that of the global batch.

    Args:
      backbone: a model from examples to float[batch, features].
      projector: a model from those to float[batch, dim].
      predictor: a model from float[batch, dim] to the same shape; "simsiam" needs one, others do not use it.
      algorithm: "simsiam", "simclr", "barlow" or "vicreg".
      **kwargs: of `keras.Model` (`name`, `dtype`, `trainable`).

    Raises:
      ConfigError: the algorithm is unknown, "simsiam" lacks a predictor, or a part's output is no vector.
    """

    def __init__(
        self,
        backbone: keras.Model,
        projector: keras.Model,
        predictor: keras.Model | None = None,
        algorithm: str = "simsiam",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"ContrastiveModel: algorithm {algorithm!r} is unknown", f"use one of {', '.join(ALGORITHMS)}")
        if algorithm == "simsiam" and predictor is None:
            raise ConfigError(
                "ContrastiveModel: simsiam needs a predictor", "give one, such as get_predictor(projector.output_shape[-1])"
            )
        if algorithm != "simsiam" and predictor is not None:
            _LOG.warning("ContrastiveModel: %s uses no predictor, the given one is left out", algorithm)
            predictor = None
        _check_vectors(projector, "projector")
        self.backbone: Any = backbone
        self.projector: Any = projector
        self.predictor: Any = predictor
        self.algorithm = algorithm
        self.autocast = False  # the parts know their own dtypes; images of 0 to 255 would lose digits here
        self.contrastive_loss_tracker = keras.metrics.Mean(name="contrastive_loss")
        self.regularization_loss_tracker = keras.metrics.Mean(name="regularization_loss")
        self.built = True  # all variables are the parts'

    @property
    def embedding_size(self) -> int:
        """Length of the embeddings."""
        return self.projector.output_shape[-1]

    @property
    def embedding_sizes(self) -> list[int | None]:
        return [self.embedding_size]

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Embeddings, or all that a loss of two views needs.

        Args:
          inputs: a batch of examples; or a tuple of batches, the views.
          training: as in Keras.

        Returns:
          Of a batch: float32[batch, dim], rows of length one. Of a tuple: (z, p), tuples of float[batch, dim] with one
          entry a view: the projections, and the predictions (the projections again where there is no predictor).
        """
        if isinstance(inputs, tuple | list):
            z = tuple(self._project(view, training) for view in inputs)
            return z, z if self.predictor is None else tuple(self.predictor(each, training=training) for each in z)
        x = ops.cast(self._project(inputs, training), "float32")
        return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), _EPSILON))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """See `IndexApi.compile`; `loss` is one loss of two embeddings."""
        super().compile(*args, **kwargs)
        # Keras would build these from a batch's (x, y), which here are two views and no labels.
        embeddings = keras.KerasTensor((None, self.embedding_size))
        with self.distribute_strategy.scope():
            for part in (self._compile_loss, self._compile_metrics):
                if part is not None:
                    part.build(embeddings, embeddings)

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss, logs = self._step(data, training=True)
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        return self._logged(*logs)

    def test_step(self, data: Any) -> dict[str, Any]:
        _, logs = self._step(data, training=False)
        return self._logged(*logs)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Prints the summaries of backbone, projector and predictor; arguments as in Keras."""
        for part in (self.backbone, self.projector, self.predictor):
            if part is not None:
                part.summary(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in _PARTS}
        return {**super().get_config(), **parts, "algorithm": self.algorithm}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> ContrastiveModel:
        parts = {name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in _PARTS}
        return cls(**{**config, **parts})

    def _project(self, view: Any, training: bool | None) -> Any:
        return self.projector(self.backbone(view, training=training), training=training)

    def _step(self, data: Any, *, training: bool) -> tuple[Any, tuple[Any, ...]]:
        """This replica's share of the loss, and what `_logged` wants."""
        if self._compile_loss is None:
            raise ConfigError("ContrastiveModel: there is no loss", "compile(optimizer, loss=...) with one of two embeddings")
        views, weights = _views(data)
        # One call for both views, so that losses that layers add in it are kept for both.
        (z1, z2), (p1, p2) = self(views, training=training)
        if self.algorithm == "simsiam":
            share = self._compile_loss(ops.stop_gradient(z1), p2, weights)
            share += self._compile_loss(ops.stop_gradient(z2), p1, weights)
        else:
            share = self._compile_loss(z1, z2, weights)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # The replicas' gradients are added up: each takes its part of what is the same on all of them.
        regularization = ops.cast(sum(self.losses), share.dtype) / replicas if self.losses else ops.zeros_like(share)
        return share + regularization, (share, regularization, views[0], z1, p2, weights)

    def _logged(self, share: Any, regularization: Any, view: Any, z1: Any, p2: Any, weights: Any) -> dict[str, Any]:
        shares = ops.stack([share, regularization, ops.cast(ops.shape(view)[0], share.dtype)])
        contrastive, regularization, rows = ops.unstack(sum_replicas(shares), 3)
        self._loss_tracker.update_state(contrastive + regularization, sample_weight=rows)
        self.contrastive_loss_tracker.update_state(contrastive, sample_weight=rows)
        self.regularization_loss_tracker.update_state(regularization, sample_weight=rows)
        return self.compute_metrics(view, z1, p2, weights)


_PARTS = ("backbone", "projector", "predictor")


def create_contrastive_model(
    backbone: keras.Model,
    projector: keras.Model | None = None,
    predictor: keras.Model | None = None,
    algorithm: str = "simsiam",
    **kwargs: Any,
) -> ContrastiveModel:
    """A `ContrastiveModel` with the usual parts where none are given.

    Args:
      backbone: a model from examples to float[batch, features].
      projector: None for `get_projector` with two layers of 512 units.
      predictor: None for `get_predictor`, where the algorithm is "simsiam".
      algorithm: see `ContrastiveModel`.
      **kwargs: of `keras.Model`.

    Raises:
      ConfigError: see `ContrastiveModel`.
    """
    if projector is None:
        _check_vectors(backbone, "backbone")
        projector = get_projector(backbone.output_shape[-1], num_layers=2)
    if predictor is None and algorithm == "simsiam":
        _check_vectors(projector, "projector")
        predictor = get_predictor(projector.output_shape[-1])
    return ContrastiveModel(backbone, projector, predictor, algorithm, **kwargs)


def _check_vectors(part: Any, name: str) -> None:
    shape = getattr(part, "output_shape", None)  # a model that was never called may not know it
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ConfigError(
            f"ContrastiveModel: the {name}'s output has the shape {shape}",
            "build it from inputs and outputs, and end it with a pooling or flattening layer: [batch, features]",
        )


def _views(data: Any) -> tuple[tuple[Any, Any], Any]:
    """((view1, view2), sample weights or None) of a batch: (view1, view2), ((view1, view2), y) or x alone."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(x, tuple | list):
        views = tuple(x)
    else:
        views = (x, x if y is None else y)
    if len(views) != 2 or views[0].shape[1:] != views[1].shape[1:]:
        raise ConfigError(
            f"ContrastiveModel: a batch holds arrays of the shapes {[tuple(view.shape) for view in views]}",
            "give two views of the same shape, (view1, view2); labels are not used",
        )
    return views, weights
