"""Embeddings in two dimensions: t-SNE, or PCA where t-SNE makes no sense or takes too long."""

from __future__ import annotations

import numpy as np

FEWEST, MOST = 50, 3000  # t-SNE for so many vectors
_ITERATIONS = 500


def project(vectors: np.ndarray, *, seed: int, most: int = MOST) -> tuple[np.ndarray, str, str]:
    """Projects embeddings to a plane, the same for the same input and seed.

    Args:
      vectors: float32[n, d].
      seed: of t-SNE and of PCA's solver.
      most: t-SNE for at most so many vectors (10,000 take about half a minute on one core), PCA for more.

    Returns:
      points: float32[n, 2].
      method: "t-SNE" or "PCA".
      explained: what the picture does and does not show, in a sentence.
    """
    n = len(vectors)
    vectors = np.asarray(vectors, np.float32)
    if FEWEST <= n <= most and vectors.shape[1] >= 2 and (vectors != vectors[0]).any():
        return _tsne(vectors, seed)
    return _pca(vectors, seed)


def _tsne(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str, str]:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = float(min(30, (len(vectors) - 1) // 3))
    with threadpool_limits(limits=1):  # sums of several threads differ in their last bits, and t-SNE amplifies that
        tsne = TSNE(2, perplexity=perplexity, init="pca", max_iter=_ITERATIONS, random_state=seed, n_jobs=1)
        points = tsne.fit_transform(vectors)
    explained = (
        "t-SNE keeps close embeddings close: which classes touch or mix is meaningful, "
        "sizes of clusters and distances between far clusters are not."
    )
    return np.asarray(points, np.float32), "t-SNE", explained


def _pca(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str, str]:
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    points = np.zeros((len(vectors), 2), np.float32)
    parts = min(2, *vectors.shape)
    share = 0.0
    if parts and len(vectors) > 1 and (vectors != vectors[0]).any():
        with threadpool_limits(limits=1):
            pca = PCA(parts, random_state=seed)
            points[:, :parts] = pca.fit_transform(vectors)
        share = float(pca.explained_variance_ratio_.sum())
    return (
        points,
        "PCA",
        f"PCA shows the two directions of largest variance; they hold {share:.1%} of it, the rest is not visible.",
    )
