"""Losses over all pairs of a batch (Keras 3)."""

from simpipe.losses.multi_similarity import MultiSimilarityLoss
from simpipe.losses.pairs import PairLoss, Pairs
from simpipe.losses.triplet import TripletLoss

__all__ = ["MultiSimilarityLoss", "PairLoss", "Pairs", "TripletLoss"]
