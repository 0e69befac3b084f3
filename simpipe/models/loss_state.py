"""Losses with variables of their own (proxies, a memory) as part of a Keras model's training, not of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from simpipe.errors import ConfigError


class LossState:
    """A mixin, before `keras.Model` in the bases: `compile` builds such losses, `fit` trains their variables.

    A loss has state where it offers `build(embedding_size: int)`, which creates its variables once, and
    `trainable_variables` and `non_trainable_variables`; it saves them itself (`save_own_variables(store)`,
    `load_own_variables(store)`), so that they are in the `.keras` file of a compiled model. A loss inside another's
    `loss` attribute and losses in lists, tuples and dicts are found too. Where it offers a context `frozen()`, it is
    in it during `evaluate`: what it remembers comes from training alone.

    Only `trainable_variables` and `trainable_weights`, which Keras differentiates and hands to the optimizer, hold the
    losses' variables. `weights`, `get_weights()`, `count_params()`, `layers` and the model as a layer of another are
    those of the network alone, and `model.trainable = False` freezes the network alone.
    """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.compile`.

        Raises:
          ConfigError: a loss with variables is to serve outputs of different or unknown embedding sizes.
        """
        base: Any = super()
        base.compile(*args, **kwargs)
        model: Any = self
        with model.distribute_strategy.scope():  # variables belong to the strategy the model was made in
            for loss, sizes in _with_sizes(model):
                for part in _stateful([loss]):
                    part.build(_one_size(part, sizes, model))

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras does not call a `compile` that is not its own when it loads a model.
        model: Any = self
        model.compile(**keras.saving.deserialize_keras_object(config))
        if model.built and model.optimizer:
            model.optimizer.build(model.trainable_variables)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, also within `fit`; losses leave their memory as it is."""
        base: Any = super()
        with self._frozen_losses():
            return base.evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        base: Any = super()
        with self._frozen_losses():
            return base.test_on_batch(*args, **kwargs)

    @property
    def loss_variables(self) -> list[Any]:
        """All variables of the compiled losses, trainable or not."""
        return self._of_losses("trainable_variables") + self._of_losses("non_trainable_variables")

    @property
    def embedding_sizes(self) -> list[int | None]:
        """The last dimension of each output; a model that Keras cannot ask for its output shape overrides it."""
        return [shape[-1] for shape in _output_shapes(self).values()]

    @property
    def trainable_variables(self) -> list[Any]:
        base: Any = super()
        return base.trainable_variables + self._of_losses("trainable_variables")

    @property
    def trainable_weights(self) -> list[Any]:
        base: Any = super()
        return base.trainable_weights + self._of_losses("trainable_variables")

    @contextmanager
    def _frozen_losses(self) -> Iterator[None]:
        # Around all replicas' code: each is traced in a thread of its own, and the threads take turns.
        with ExitStack() as stack:
            for loss in _stateful(_flat(getattr(self, "loss", None))):
                if hasattr(loss, "frozen"):
                    stack.enter_context(loss.frozen())
            yield

    def _of_losses(self, kind: str) -> list[Any]:
        # `loss` is not there yet while Keras constructs the model.
        losses = _stateful(_flat(getattr(self, "loss", None)))
        # Each once: a loss around another may count the inner one's as its own.
        return list({id(variable): variable for loss in losses for variable in getattr(loss, kind, ())}.values())


def _flat(losses: Any) -> Iterator[Any]:
    if isinstance(losses, dict):
        losses = list(losses.values())
    if isinstance(losses, list | tuple):
        for each in losses:
            yield from _flat(each)
    elif losses is not None:
        yield losses


def _stateful(losses: Any) -> Iterator[Any]:
    """The losses with variables, each once, outer before inner."""
    seen: set[int] = set()
    for loss in losses:
        while isinstance(loss, keras.losses.Loss) and id(loss) not in seen:
            seen.add(id(loss))
            if hasattr(loss, "build"):
                yield loss
            loss = getattr(loss, "loss", None)


def _output_shapes(model: Any) -> dict[str, Any]:
    """(None, ..., dim) of each output, by the name that a loss dict may use; empty where Keras does not know them."""
    outputs = getattr(model, "output", None)
    if not isinstance(outputs, dict):
        outputs = dict(zip(getattr(model, "output_names", ()), keras.tree.flatten(outputs), strict=False))
    return {name: output.shape for name, output in outputs.items()}


def _with_sizes(model: Any) -> Iterator[tuple[Any, list[int | None]]]:
    """Each compiled loss, and the embedding sizes of the outputs that it gets."""
    losses, sizes = model.loss, model.embedding_sizes
    if isinstance(losses, dict):
        by_name = dict(zip(_output_shapes(model), sizes, strict=False))
        parts = [(loss, [by_name.get(name)]) for name, loss in losses.items()]
    elif isinstance(losses, list | tuple) and len(losses) == len(sizes):
        parts = [(loss, [size]) for loss, size in zip(losses, sizes, strict=True)]
    else:
        parts = [(losses, sizes)]
    for part, its_sizes in parts:
        for loss in _flat(part):
            yield loss, its_sizes


def _one_size(loss: Any, sizes: list[int | None], model: Any) -> int:
    found = set(sizes)
    if len(found) == 1 and (size := found.pop()) is not None:
        return size
    raise ConfigError(
        f"compile: {loss.name} has variables and needs one embedding size; {model.name}'s outputs have {sizes or 'none'}",
        "build the model first (SimilarityModel(inputs, outputs)), and give each output a loss of its own",
    )
