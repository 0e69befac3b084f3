"""Calibration: mergeable counts of (distance, hit) pairs, the threshold sweep, and cutpoints with intervals.

`rules.DIFFERENCES` lists where results differ from TensorFlow Similarity's on purpose.
"""

from simpipe.calibration.bootstrap import Bootstrap
from simpipe.calibration.pairs import MAX_DISTINCT, PairCounts
from simpipe.calibration.rules import DIFFERENCES, Target, targets_of
from simpipe.calibration.sweep import Calibration, calibrate, default_metrics, sweep

__all__ = [
    "DIFFERENCES",
    "MAX_DISTINCT",
    "Bootstrap",
    "Calibration",
    "PairCounts",
    "Target",
    "calibrate",
    "default_metrics",
    "sweep",
    "targets_of",
]
