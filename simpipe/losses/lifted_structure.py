"""Lifted structure loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.gather import gather_replicas, sum_replicas
from simpipe.losses.mining import POSITIVE, check_strategy, mine_positive
from simpipe.losses.pairs import AnyDistance, PairLoss, Pairs, masked_logsumexp

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class LiftedStructLoss(PairLoss):
    """Song et al. 2016, "Deep Metric Learning via Lifted Structured Feature Embedding", eq. 4.

    `J = 1/(2|P|) Σ_{(i,j) in P} max(0, J_ij)²`, with N_i the examples of another label than i's and
    `J_ij = log(Σ_{k in N_i} exp(margin - D_ik) + Σ_{l in N_j} exp(margin - D_jl)) + D_ij`. An anchor's value is its
    part of J, scaled so that the mean over the anchors that have a positive and a negative is J; the others have 0.

    TensorFlow Similarity computes something else under this name (the second sum takes distances of i, not of j; the
    square and the hinge are missing); `formula="tf_similarity"` gives its numbers.

    Args:
      distance: a name in `simpipe.distances`, its configuration, or a `Distance`.
      positive_mining_strategy: P. "hard" pairs each anchor with its farthest positive, "easy" with its nearest, "all"
        (the paper) with every one. "all" compares all columns with all columns where they are more than the anchors:
        [M, M] floats for M examples of all replicas and a memory.
      margin: in units of the distance.
      name: of the loss.
      formula: "paper" or "tf_similarity" (not with "all").
      reduction: see `PairLoss`.

    Raises:
      ConfigError: the distance, strategy or formula is unknown.
    """

    def __init__(
        self,
        distance: AnyDistance = "cosine",
        positive_mining_strategy: str = "hard",
        margin: float = 1.0,
        name: str = "lifted_struct_loss",
        *,
        formula: str = "paper",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        check_strategy("formula", formula, ("paper", "tf_similarity"))
        strategies = (*POSITIVE, "all") if formula == "paper" else POSITIVE
        check_strategy("positive_mining_strategy", positive_mining_strategy, strategies)
        self.positive_mining_strategy, self.margin, self.formula = positive_mining_strategy, margin, formula

    def anchor_values(self, pairs: Pairs) -> Any:
        if self.positive_mining_strategy == "all":
            return self._all_positives(pairs)
        positive, p = mine_positive(pairs.distances, pairs.positives, self.positive_mining_strategy)
        positive = ops.where(pairs.valid, positive, ops.zeros_like(positive))
        if self.formula == "tf_similarity":
            return self._as_tf_similarity(pairs, positive, p)
        # A positive has its anchor's label, hence its anchor's negatives.
        of_positive = self.distance(ops.take(pairs.columns, p, axis=0), pairs.columns)
        both = ops.logaddexp(
            masked_logsumexp(self.margin - pairs.distances, pairs.negatives),
            masked_logsumexp(self.margin - of_positive, pairs.negatives),
        )
        return 0.5 * ops.square(ops.maximum(both + positive, 0.0))

    def _all_positives(self, pairs: Pairs) -> Any:
        of_anchor = masked_logsumexp(self.margin - pairs.distances, pairs.negatives)
        of_column = of_anchor
        if pairs.columns is not pairs.rows:
            negatives = ops.not_equal(pairs.column_labels[:, None], pairs.column_labels[None, :])
            if pairs.known is not None:
                negatives = ops.logical_and(negatives, pairs.known)
            of_column = masked_logsumexp(self.margin - self.distance(pairs.columns, pairs.columns), negatives)
        values = ops.logaddexp(of_anchor[:, None], of_column[None, :]) + pairs.distances
        chosen = ops.logical_and(pairs.positives, pairs.valid[:, None])
        squares = ops.square(ops.maximum(ops.where(chosen, values, 0.0), 0.0))
        number = sum_replicas(ops.sum(ops.cast(chosen, "float32")))
        return 0.5 * ops.sum(squares, axis=1) * ops.divide_no_nan(pairs.num_valid, number)

    def _as_tf_similarity(self, pairs: Pairs, positive: Any, p: Any) -> Any:
        """`(log(1 + Σ exp(margin - [D, D[:, p]])) + d_ip) / 2` over the masks [N, N[:, p]]: columns gathered, not rows."""
        all_p, _ = gather_replicas(p)
        d = ops.concatenate([pairs.distances, ops.take(pairs.distances, all_p, axis=1)], axis=1)
        negatives = ops.concatenate([pairs.negatives, ops.take(pairs.negatives, all_p, axis=1)], axis=1)
        return 0.5 * (ops.softplus(masked_logsumexp(self.margin - d, negatives)) + positive)

    def get_config(self) -> dict[str, Any]:
        names = ("positive_mining_strategy", "margin", "formula")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
