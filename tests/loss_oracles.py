"""The pair losses again, from their definitions: float64, loops over anchors and pairs, no code of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

DISTANCES: dict[str, Callable[[Any, Any], float]] = {
    "cosine": lambda a, b: max(1 - a @ b, 0),
    "euclidean": lambda a, b: np.linalg.norm(a - b),
    "squared_euclidean": lambda a, b: np.sum((a - b) ** 2),
    "manhattan": lambda a, b: np.sum(np.abs(a - b)),
    "snr": lambda a, b: np.var(a - b) / np.var(a),
}


@dataclass
class World:
    """Anchors, the columns they see (the anchors first, then a memory), and the distance."""

    labels: Any
    columns: Any
    column_labels: Any
    distance: Callable[[Any, Any], float]

    def positives(self, i: int) -> list[int]:
        return [j for j, label in enumerate(self.column_labels) if label == self.labels[i] and j != i]

    def negatives(self, label: Any) -> list[int]:
        return [j for j, other in enumerate(self.column_labels) if other != label]

    def d(self, i: int, j: int) -> float:
        return float(self.distance(self.columns[i], self.columns[j]))


def world(labels: Any, embeddings: Any, distance: str = "cosine", memory: tuple[Any, Any] | None = None) -> World:
    columns, column_labels = np.asarray(embeddings, np.float64), np.asarray(labels)
    if memory is not None:
        columns = np.concatenate([columns, np.asarray(memory[1], np.float64)])
        column_labels = np.concatenate([column_labels, memory[0]])
    return World(labels, columns, column_labels, DISTANCES[distance])


def values(one: Callable[..., float], w: World, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The value of each anchor, 0 without a positive or a negative, and which have both."""
    valid = np.array([bool(w.positives(i)) and bool(w.negatives(w.labels[i])) for i in range(len(w.labels))], bool)
    return np.array([one(w, i, **options) if ok else 0.0 for i, ok in enumerate(valid)]), valid


def mean(one: Callable[..., float], w: World, **options: Any) -> float:
    per_anchor, valid = values(one, w, **options)
    return float(per_anchor.sum() / max(valid.sum(), 1))


def hinge(x: float, margin: float | None) -> float:
    return float(np.log1p(np.exp(x))) if margin is None else max(x + margin, 0.0)


def mined(w: World, i: int, positive: str, negative: str) -> tuple[int, int]:
    ps, ns = w.positives(i), w.negatives(w.labels[i])
    farthest = max(w.d(i, p) for p in ps)
    p = max(ps, key=lambda j: w.d(i, j)) if positive == "hard" else min(ps, key=lambda j: w.d(i, j))
    beyond = [n for n in ns if w.d(i, n) > farthest]
    if negative == "hard":
        return p, min(ns, key=lambda j: w.d(i, j))
    if negative == "semi-hard" and beyond:
        return p, min(beyond, key=lambda j: w.d(i, j))
    return p, max(ns, key=lambda j: w.d(i, j))


def triplet(w: World, i: int, positive: str = "hard", negative: str = "semi-hard", margin: float | None = None) -> float:
    p, n = mined(w, i, positive, negative)
    return hinge(w.d(i, p) - w.d(i, n), margin)


def pn(w: World, i: int, positive: str = "hard", negative: str = "semi-hard", margin: float | None = None) -> float:
    p, n = mined(w, i, positive, negative)
    return hinge(w.d(i, p) - min(w.d(i, n), w.d(p, n)), margin)


def multi_similarity(
    w: World, i: int, alpha: float = 2, beta: float = 40, epsilon: float = 0.1, lmda: float = 0.5, center: float = 1.0
) -> float:
    ps, ns = [w.d(i, j) for j in w.positives(i)], [w.d(i, j) for j in w.negatives(w.labels[i])]
    kept_p, kept_n = [x for x in ps if x > min(ns) - epsilon], [x for x in ns if x < max(ps) + epsilon]
    if not kept_p or not kept_n:
        return 0.0
    s = lmda - center
    pull = np.log1p(sum(np.exp(alpha * (x + s)) for x in kept_p)) / alpha
    return float(pull + np.log1p(sum(np.exp(-beta * (x + s)) for x in kept_n)) / beta)


def circle(w: World, i: int, gamma: float = 80, margin: float = 0.4, formula: str = "tf_similarity") -> float:
    # In the paper's words: similarities s, optima O_p = 1 + m and O_n = -m, decision bounds 1 - m and m.
    sp, sn = [1 - w.d(i, j) for j in w.positives(i)], [1 - w.d(i, j) for j in w.negatives(w.labels[i])]
    p = logsumexp([-gamma * max(1 + margin - s, 0) * (s - (1 - margin)) for s in sp])
    n = logsumexp([gamma * max(s + margin, 0) * (s - margin) for s in sn])
    return float(np.logaddexp(0, p + n) if formula == "paper" else np.logaddexp(0, p) + np.logaddexp(0, n))


def soft_nearest_neighbor(w: World, i: int, temperature: float = 1) -> float:
    near = [-w.d(i, j) / temperature for j in w.positives(i)]
    return float(logsumexp(near + [-w.d(i, j) / temperature for j in w.negatives(w.labels[i])]) - logsumexp(near))


def lifted_pair(w: World, i: int, j: int, margin: float) -> float:
    """J_ij, equation 4 of Song et al. 2016."""
    ns = w.negatives(w.labels[i])
    return float(np.log(sum(np.exp(margin - w.d(i, k)) + np.exp(margin - w.d(j, k)) for k in ns)) + w.d(i, j))


def lifted_structure(w: World, i: int, positive: str = "hard", margin: float = 1.0) -> float:
    p, _ = mined(w, i, positive, "hard")
    return max(0.0, lifted_pair(w, i, p, margin)) ** 2 / 2


def lifted_structure_all(w: World, margin: float = 1.0) -> float:
    """J over every pair (i, j) of an anchor with its positives: 1 / (2 |P|) Σ max(0, J_ij)²."""
    anchors = [i for i, label in enumerate(w.labels) if w.negatives(label)]
    squares = [max(0.0, lifted_pair(w, i, j, margin)) ** 2 for i in anchors for j in w.positives(i)]
    return sum(squares) / (2 * len(squares)) if squares else 0.0
