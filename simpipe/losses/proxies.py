"""What the proxy losses share: one trainable vector a class, the classes looked at in a step, their place in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from simpipe.errors import ConfigError
from simpipe.losses.shares import loss_options, num_replicas
from simpipe.losses.views import unit_rows

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


class ProxyLoss(keras.losses.Loss):
    """A loss of embeddings against a trainable proxy vector of each class.

    The proxies are the loss's, not the encoder's: `SimilarityModel.compile` creates them, `fit` trains them, `.keras`
    files of a compiled model hold them. A plain `keras.Model` does not know them and would never train them: there,
    calling the loss is an error until `build` was called, and training the proxies is up to the caller
    (`trainable_variables`).

    With `num_sampled`, a step looks only at the classes of the global batch and that many random others (An et al.
    2022, "Killing Two Birds with One Stone", Partial FC), which bounds its time and memory for a large `num_classes`. The
    choice depends on `seed` and the number of the step alone: it is the same on all replicas and in a resumed run (with
    `jit_compile` it is another one, but as steady).

    Args:
      num_classes: labels are 0 to num_classes - 1.
      num_sampled: other classes a step, or None for all classes.
      seed: of the proxies' first values and of the sampling.
      name: of the loss.
      reduction: see the loss.

    Raises:
      ConfigError: a number is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_sampled: int | None,
        seed: int,
        name: str,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, **loss_options(reduction))
        if num_classes < 2:
            raise ConfigError(f"{name}: num_classes is {num_classes}", "give the number of classes, 2 or more")
        if num_sampled is not None and num_sampled < 1:
            raise ConfigError(f"{name}: num_sampled is {num_sampled}", "give 1 or more, or None for all classes")
        self.num_classes, self.num_sampled, self.seed = num_classes, num_sampled, seed
        self._proxies: Any = None
        self._step: Any = None
        self._frozen = False
        self._refused: ConfigError | None = None

    def build(self, embedding_size: int) -> None:
        """Creates the proxies, float32[num_classes, embedding_size]; a second call changes nothing.

        Raises:
          ConfigError: they exist with another size.
        """
        if self._proxies is not None:
            if self._proxies.shape[1] != embedding_size:
                raise ConfigError(
                    f"{self.name}: the proxies have {self._proxies.shape[1]} dimensions, the embeddings {embedding_size}",
                    "give each model its own loss",
                )
            return
        # Of about unit length: the loss scales them to one, so their length sets only how fast an optimizer turns them.
        initial: Any = keras.initializers.RandomNormal(stddev=embedding_size**-0.5, seed=self.seed)
        self._proxies = keras.Variable(
            initial, shape=(self.num_classes, embedding_size), dtype="float32", trainable=True, name=f"{self.name}_proxies"
        )
        self._step = keras.Variable(0, dtype="int32", trainable=False, aggregation="only_first_replica", name=f"{self.name}_step")

    @property
    def proxies(self) -> Any:
        """The variable, float32[num_classes, dim], not normalised.

        Raises:
          ConfigError: `build` was not called.
        """
        if self._proxies is None:
            raise ConfigError(
                f"{self.name} has trainable proxies and does not know their size",
                "compile it in a simpipe model (SimilarityModel), which trains them too, or call loss.build(embedding_size)",
            )
        return self._proxies

    @property
    def trainable_variables(self) -> list[Any]:
        return [] if self._proxies is None else [self._proxies]

    @property
    def non_trainable_variables(self) -> list[Any]:
        return [] if self._step is None else [self._step]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, calls do not count as steps (for validation)."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

    def save_own_variables(self, store: Any) -> None:
        if self._proxies is not None:
            store["proxies"], store["step"] = self._proxies.numpy(), self._step.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Takes the proxies of a file.

        Raises:
          ConfigError: they are missing or of another shape.
        """
        if "proxies" not in store:
            # Keras comes again where it finds the loss a second time, and there with nothing: the first reason is the right one.
            raise self._refused or ConfigError(
                f"{self.name}: the file holds no proxies", "load_weights(path, skip_mismatch=True) keeps those of the loss"
            )
        saved = store["proxies"]
        if tuple(saved.shape) != tuple(self.proxies.shape):
            self._refused = ConfigError(
                f"{self.name}: the file holds proxies {tuple(saved.shape)}, the loss has {tuple(self.proxies.shape)}",
                "compile with the num_classes and embedding size that were saved",
            )
            raise self._refused
        self.proxies.assign(saved)
        self._step.assign(store["step"])

    def class_labels(self, y_true: Tensor) -> Tensor:
        """Labels as int32[B]; one outside 0 to num_classes - 1 fails when the step runs, unless XLA drops the check."""
        labels = ops.cast(ops.reshape(ops.convert_to_tensor(y_true), (-1,)), "int64")
        wrong = f"{self.name}: a label is not in 0 to num_classes - 1 = {self.num_classes - 1}"
        bounds = [
            tf.debugging.assert_non_negative(labels, wrong),
            tf.debugging.assert_less(labels, tf.constant(self.num_classes, tf.int64), wrong),
        ]
        # In a graph the labels must depend on the checks; eagerly there is nothing to depend on.
        with tf.control_dependencies([check for check in bounds if check is not None]):
            return ops.cast(tf.identity(labels), "int32")

    def nan_unless_known(self, values: Tensor, labels: Tensor) -> Tensor:
        """NaN where a label is not in 0 to num_classes - 1: what is left to say where XLA drops the check."""
        known = ops.logical_and(labels >= 0, labels < self.num_classes)
        return ops.where(known if len(values.shape) else ops.all(known), values, float("nan"))

    def classes(self, all_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The classes that this step looks at.

        Args:
          all_labels: int32[M], labels of the global batch.

        Returns:
          Class numbers int32[K]; their unit proxies float32[K, dim]; bool[K], False for columns without meaning
          (their number varies with the batch, K does not).
        """
        proxies = tf.convert_to_tensor(self.proxies.value)
        if self.num_sampled is None:
            numbers = ops.arange(self.num_classes, dtype="int32")
            return numbers, unit_rows(proxies), ops.ones_like(numbers, dtype="bool")
        present = self.present(all_labels)
        step = tf.convert_to_tensor(self._step.value)
        if not self._frozen:
            self._step.assign(step + 1)
        # A named algorithm, as "auto" depends on the device. XLA draws other numbers from the same seed.
        draw = tf.random.stateless_uniform((self.num_classes,), seed=tf.stack([self.seed, step]), alg="philox")
        most = ops.minimum(ops.shape(all_labels)[0] + self.num_sampled, self.num_classes)
        # Classes of the batch come first, then the largest draws.
        numbers = tf.math.top_k(ops.where(present, 2.0, draw), k=most).indices
        wanted = ops.sum(ops.cast(present, "int32")) + self.num_sampled
        return numbers, unit_rows(ops.take(proxies, numbers, axis=0)), ops.arange(most) < wanted

    def present(self, all_labels: Tensor) -> Tensor:
        """bool[num_classes], the classes of the global batch."""
        counts = tf.math.unsorted_segment_sum(tf.ones_like(all_labels), all_labels, self.num_classes)
        return counts > 0

    def own_part(self, classes: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The part of the classes that this replica answers for; together the replicas' parts are all of them."""
        replicas = num_replicas()
        if replicas == 1:
            return classes
        replica = tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
        size = -(-ops.shape(classes[0])[0] // replicas)
        return tuple(part[replica * size : (replica + 1) * size] for part in classes)  # pyright: ignore[reportReturnType]

    def get_config(self) -> dict[str, Any]:
        names = ("num_classes", "num_sampled", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
