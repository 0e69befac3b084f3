"""Cross-batch memory: a pair loss against the embeddings of earlier batches too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from simpipe.errors import ConfigError
from simpipe.losses.gather import in_replica
from simpipe.losses.pairs import PairLoss, Pairs, gather_batch

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class XBM(PairLoss):
    """Wang et al. 2020, "Cross-Batch Memory for Embedding Learning": a pair loss whose anchors see earlier batches.

    The anchors are the batch; their pairs are the global batch and the newest embeddings of earlier batches,
    `memory_size` in all. Embeddings of earlier batches carry no gradient. After each call the memory holds
    `[global batch, memory][:memory_size]`. During the warm-up it stays empty, and where the batch is at least
    `memory_size` long nothing older is seen: the loss is that of the batch.

    The memory is made by `build`, inside the strategy's scope where there is one, or at the first call or `fit`. Every
    replica holds the same memory, as each sees the same global batch. It is not saved with a model: training that goes
    on from a file begins with an empty one. Labels are kept as int64.

    A call moves the memory on; inside `with loss.frozen():`, where simpipe's models put `evaluate`, it only looks at it.

    Args:
      loss: any `PairLoss`, or its configuration.
      memory_size: examples, at least 1; 4 bytes times the embedding's length each, on every replica.
      warmup_steps: calls before the memory is used: early embeddings drift too fast to be of use.
      name: of the loss; "xbm_" and the name of the inner loss by default.
      reduction: see `PairLoss`; "auto" takes that of the inner loss.

    Raises:
      ConfigError: the loss is not a pair loss, or a number is out of range.
    """

    def __init__(
        self,
        loss: PairLoss | dict[str, Any],
        memory_size: int,
        warmup_steps: int = 0,
        name: str | None = None,
        *,
        reduction: str | None = "auto",
    ) -> None:
        inner: Any = keras.losses.deserialize(loss) if isinstance(loss, dict) else loss
        if not isinstance(inner, PairLoss) or isinstance(inner, XBM):
            raise ConfigError(
                f"XBM: loss is a {type(inner).__name__}", "give a loss over labelled pairs, such as TripletLoss, without a memory"
            )
        if memory_size < 1 or warmup_steps < 0:
            raise ConfigError(
                f"XBM: memory_size {memory_size}, warmup_steps {warmup_steps}", "use at least 1 example and 0 steps"
            )
        super().__init__(
            distance=inner.distance,
            name=name or f"xbm_{inner.name}",
            reduction=inner.reduction if reduction == "auto" else reduction,
        )
        self.loss, self.memory_size, self.warmup_steps = inner, memory_size, warmup_steps
        self._embeddings: Any = None
        self._labels: Any = None
        self._filled: Any = None
        self._steps: Any = None
        self._frozen = False

    @property
    def built(self) -> bool:
        return self._embeddings is not None

    @property
    def variables(self) -> list[Any]:
        """Embeddings [memory_size, dim], labels [memory_size], how many of them are filled, calls; empty if unbuilt."""
        return [self._embeddings, self._labels, self._filled, self._steps] if self.built else []

    @property
    def trainable_variables(self) -> list[Any]:
        """None: the memory is not learned."""
        return []

    @property
    def non_trainable_variables(self) -> list[Any]:
        """`variables`: with this and `build`, `SimilarityModel.compile` makes the memory."""
        return self.variables

    def build(self, embedding_size: int) -> None:
        """Makes the empty memory; a second call with the same size changes nothing.

        Raises:
          ConfigError: the memory is there with another size, or this is the code of one of several replicas.
        """
        if self.built:
            if self._embeddings.shape[1] != embedding_size:
                raise ConfigError(
                    f"{self.name}: the memory holds embeddings of {self._embeddings.shape[1]} numbers, not {embedding_size}",
                    "make a new XBM for another model",
                )
            return
        if in_replica():
            raise ConfigError(
                f"{self.name}: no memory yet, and one replica cannot make it for all",
                f"call loss.build({embedding_size}) inside strategy.scope()",
            )
        with tf.init_scope():
            self._embeddings = self._variable((self.memory_size, embedding_size), "float32", "embeddings")
            self._labels = self._variable((self.memory_size,), "int64", "labels")
            self._filled = self._variable((), "int64", "filled")
            self._steps = self._variable((), "int64", "steps")

    def reset(self) -> None:
        """Empties the memory and begins the warm-up again."""
        for variable in self.variables:
            variable.assign(ops.zeros_like(variable))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, calls see the memory and leave it as it is (for validation)."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

    def counts(self, has_positive: Tensor, has_negative: Tensor) -> Tensor:
        return self.loss.counts(has_positive, has_negative)

    def anchor_values(self, pairs: Pairs) -> Tensor:
        return self.loss.anchor_values(pairs)

    def pairs(self, y_true: Tensor, y_pred: Tensor) -> Pairs:
        """Anchors against the global batch and the memory before this call; then the batch enters the memory."""
        batch = gather_batch(ops.cast(y_true, "int64"), y_pred)
        self.build(batch.embeddings.shape[-1])
        number = ops.shape(batch.all_labels)[0]
        keep = ops.maximum(self.memory_size - number, 0) if tf.is_tensor(number) else max(self.memory_size - number, 0)
        known = ops.concatenate([ops.ones((number,), "bool"), ops.arange(keep, dtype="int64") < self._filled.value])
        pairs = self._compare(
            batch,
            ops.concatenate([batch.all_embeddings, ops.stop_gradient(self._embeddings.value[:keep])]),
            ops.concatenate([batch.all_labels, self._labels.value[:keep]]),
            known,
        )
        if not self._frozen:
            self._remember(batch.all_embeddings, batch.all_labels, number)
        return pairs

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["distance"]
        return {
            **config,
            "loss": keras.losses.serialize(self.loss),
            "memory_size": self.memory_size,
            "warmup_steps": self.warmup_steps,
        }

    def _remember(self, embeddings: Tensor, labels: Tensor, number: Any) -> None:
        warm = self._steps.value >= self.warmup_steps
        filled = ops.minimum(self._filled.value + ops.cast(number, "int64"), self.memory_size)
        newest = ops.concatenate([ops.stop_gradient(embeddings), self._embeddings.value])[: self.memory_size]
        newest_labels = ops.concatenate([labels, self._labels.value])[: self.memory_size]
        self._embeddings.assign(ops.reshape(newest, self._embeddings.shape))
        self._labels.assign(ops.reshape(newest_labels, self._labels.shape))
        self._filled.assign(ops.where(warm, filled, ops.zeros_like(filled)))
        self._steps.assign(self._steps.value + 1)

    def _variable(self, shape: tuple[int, ...], dtype: str, name: str) -> Any:
        # On read: each replica writes its own copy without an exchange, and all write the same.
        make: Any = keras.Variable
        return make(
            "zeros",
            shape=shape,
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            synchronization="on_read",
            name=f"{self.name}_{name}",
        )
