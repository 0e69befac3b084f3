"""The encoder as a Keras model that can index what it encodes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from simpipe.models.index_api import IndexApi
from simpipe.models.loss_state import LossState


@keras.saving.register_keras_serializable(package="simpipe")
class SimilarityModel(IndexApi, LossState, keras.Model):  # pyright: ignore[reportIncompatibleMethodOverride]  # save
    """A functional model (`SimilarityModel(inputs, outputs)`) from raw examples to unit embeddings.

    Preprocessing is part of the model, so that whoever holds its file can encode. Methods for indexing, matching and
    evaluation: see `IndexApi`.
    """

    def encode(self, x: Any, *, batch_size: int = 256) -> np.ndarray:
        """Embeddings of raw examples.

        Args:
          x: array [n, *input shape] of the input's dtype.
          batch_size: rows at a time.

        Returns:
          float32[n, dim].
        """
        x = np.asarray(x)
        if not len(x):
            return np.zeros((0, self.output_shape[-1]), np.float32)
        parts = [self.predict_on_batch(x[begin : begin + batch_size]) for begin in range(0, len(x), batch_size)]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])
