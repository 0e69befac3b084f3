"""What the gates want to know of a release, read from its files and from the data sets that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files, releases
from simpipe.canaries import Canary, ask
from simpipe.config.release import GatesConfig
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.data.examples import DATASET_JSON, DatasetInfo
from simpipe.drift import lowest
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsInfo
from simpipe.errors import SimpipeError
from simpipe.gates import Facts
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest, ManifestFile

Fetch = Callable[[Path, ManifestFile], Path]
_METRICS_JSON = "metrics.json"


def facts_to_judge(gates: GatesConfig, root: Path, folder: Path, manifest: Manifest, canaries: Sequence[Canary] | None) -> Facts:
    """Facts of the release that is judged; whatever is wrong with its files becomes one of them.

    Args:
      gates: what is asked for. root: of the data sets. folder, manifest: of the release. canaries: to be asked.
    """
    damage: str | None = None
    fetch: Fetch = releases.verify_file
    if gates.files:
        try:
            releases.verify_release(folder, manifest)
            fetch = releases.resolve  # verified a moment ago
        except SimpipeError as error:
            damage = error.message
    sample, answers = None, None
    metrics, cutpoints = {}, {}
    try:
        metrics, cutpoints = _measured(folder, manifest, fetch)
        if damage is None:
            sample = _sample(gates, folder, manifest, fetch)
        if damage is None and canaries is not None and gates.canaries is not None:
            searcher = Searcher(folder, manifest, fetch=fetch)
            answers = ask(canaries, searcher, root=root, folder=files.located(gates.canaries.path).parent)
    except SimpipeError as error:
        damage = damage or error.message
    return _about(manifest, _rejected(root, manifest), metrics, cutpoints, damage=damage, sample=sample, canaries=answers)


def facts_of_live(gates: GatesConfig, folder: Path, manifest: Manifest) -> Facts:
    """Facts of the live release.

    Raises:
      SimpipeError: it is damaged.
    """
    metrics, cutpoints = _measured(folder, manifest, releases.verify_file)
    return _about(manifest, None, metrics, cutpoints, sample=_sample(gates, folder, manifest, releases.verify_file))


def _about(manifest: Manifest, rejected: float | None, metrics: dict[str, Any], cutpoints: dict[str, Any], **more: Any) -> Facts:
    return Facts(
        manifest.release,
        manifest.items,
        manifest.encoder.fingerprint,
        manifest.dim,
        manifest.distance,
        rejected,
        metrics,
        cutpoints,
        **more,
    )


def _measured(folder: Path, manifest: Manifest, fetch: Fetch) -> tuple[dict[str, float | None], dict[str, float]]:
    """Metrics, and distances of cutpoints; empty where the step has not run."""
    metrics, cutpoints = {}, {}
    if manifest.has(_METRICS_JSON):
        metrics = files.read_json(fetch(folder, manifest.file(_METRICS_JSON)))["metrics"]
    if manifest.has(CUTPOINTS_JSON):
        listed = files.read_json(fetch(folder, manifest.file(CUTPOINTS_JSON)))["cutpoints"]
        cutpoints = {name: point["distance"] for name, point in listed.items()}
    return metrics, cutpoints


def _sample(gates: GatesConfig, folder: Path, manifest: Manifest, fetch: Fetch) -> np.ndarray | None:
    """Vectors of the items with the lowest hashes, in their order; None where no limit of drift asks for them."""
    drift = gates.drift
    if drift.centroid_cosine is None and drift.norm is None and drift.psi is None:
        return None
    return draw_sample(Searcher(folder, manifest, fetch=fetch), drift.sample)


def draw_sample(searcher: Searcher, count: int) -> np.ndarray:
    """The vectors of the `count` items with the lowest hashes of their ids: float32[at most count, dim], in that order."""
    return vectors_at(searcher, *sample_rows(searcher, count))


def sample_rows(searcher: Searcher, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the `count` items with the lowest hashes of their ids lie, in that order.

    Partition by partition; the same items give the same sample, however they lie in partitions. Hidden rows are left out.

    Returns:
      Numbers of partitions int64[m] and rows int64[m], m at most `count`.
    """
    answering: dict[int, np.ndarray] = {}  # rows of partitions that hide some

    def ties() -> Iterator[np.ndarray]:
        for number in range(len(searcher.manifest.partitions)):
            tie, hidden = searcher.rows(number).tie, searcher.hidden(number)
            if hidden is not None:
                first = min(len(tie), count + len(hidden))
                answering[number] = np.delete(np.arange(first), hidden[hidden < first])
            yield tie if hidden is None else tie[answering[number]]

    owner, row = lowest(ties(), count)
    for number, rows in answering.items():
        here = owner == number
        row[here] = rows[row[here]]
    return owner, row


def vectors_at(searcher: Searcher, owner: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The vectors of rows of partitions, see `sample_rows`: float32[m, dim]."""
    vectors = np.empty((len(row), searcher.dim), np.float32)
    for number in np.unique(owner).tolist():
        here = np.flatnonzero(owner == number)
        vectors[here] = searcher.stored_vectors(number)[row[here]]
    return vectors


def embeddings_folder(root: Path, manifest: Manifest) -> Path:
    """Where the embeddings lie that a release was built from last."""
    return root / "embeddings" / str(manifest.provenance.get("embeddings"))[:12]


def _rejected(root: Path, manifest: Manifest) -> float | None:
    """The share of records that sharding and embedding left out; None where their data sets are gone."""
    folder = embeddings_folder(root, manifest)
    if not (folder / EMBEDDINGS_JSON).exists():
        return None
    info = EmbeddingsInfo.load(folder)
    steps = [info.counts]
    examples = root / "examples" / str(info.provenance.get("examples"))[:12]
    if (examples / DATASET_JSON).exists():
        steps.append(DatasetInfo.load(examples).counts)
    kept = [1 - counts["rejected"] / counts["read"] if counts.get("read") else 1.0 for counts in steps]
    return float(1 - np.prod(kept))
