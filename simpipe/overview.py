"""All releases of a root, a record each: which is live, who made it from what, what it holds, and what its gates said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simpipe import files, releases
from simpipe.errors import SimpipeError
from simpipe.manifest import MANIFEST_JSON, Manifest
from simpipe.pointer import Pointer, read_pointer
from simpipe.tags import read_tags
from simpipe.verdict import VERDICT_JSON, Verdict

METRICS_JSON = "metrics.json"
_ANN_RECALL = "ann_recall_at_"
_UNREAD = (ValueError, TypeError, AttributeError, RecursionError, OSError, SimpipeError)


def overview(root: Path) -> list[dict[str, Any]]:
    """One record a release, newest first; values that an earlier version did not write are None.

    `state`: words `live`, `previous`, `#TAG`, `forced` (published although a gate failed) and `damaged` (a file is missing, of
    another size, or cannot be read). `made`: verb, user and time. `base`: the release that was re-indexed; else `embeddings`
    is the key of the data set that it was built from. `rebuilt`: partitions that a re-index built anew. `verdict`: `pass`,
    `FAIL`, `forced`, or None where it was not judged.

    Raises:
      ReleaseError: the pointer or a tag is damaged.
    """
    pointer = read_pointer(root)
    names: dict[str, list[str]] = {}
    for name, tag in read_tags(root).items():
        names.setdefault(tag.release, []).append(name)
    found = releases.finished(root)
    readable = {folder for folder, _ in found}
    rows = [_row(folder, manifest, pointer, names.get(folder.name, [])) for folder, manifest in found]
    for path in releases.releases_folder(root).glob(f"*Z-*/{MANIFEST_JSON}"):
        if path.parent not in readable:
            states = _states(path.parent.name, pointer, names.get(path.parent.name, []))
            rows.append({**dict.fromkeys(_COLUMNS), "release": path.parent.name, "state": " ".join([*states, "damaged"])})
    return sorted(rows, key=lambda row: (row["created"] is not None, row["created"], row["release"]), reverse=True)


_COLUMNS = (
    "release", "state", "created", "made", "base", "embeddings", "changes", "items", "partitions", "rebuilt",
    "backend", "encoder", "precision@1", "ann_recall", "verdict",
)  # fmt: skip


def _row(folder: Path, manifest: Manifest, pointer: Pointer | None, tagged: list[str]) -> dict[str, Any]:
    states = _states(folder.name, pointer, tagged)
    metrics, verdict, whole = _read(folder, manifest)
    forced = verdict is not None and verdict.forced is not None
    if forced or (pointer is not None and pointer.release == folder.name and pointer.forced):
        states.append("forced")
    about = manifest.provenance
    reindex = _inner(about, "reindex")
    values = (
        manifest.release,
        " ".join(states if whole else [*states, "damaged"]),
        manifest.created_at,
        _inner(about, "made") or None,
        reindex.get("base"),
        about.get("embeddings"),
        _inner(reindex, "items") or None,
        manifest.items,
        len(manifest.partitions),
        _inner(reindex, "partitions").get("rebuilt"),
        manifest.backend.get("kind"),
        manifest.encoder.fingerprint,
        metrics.get("label_precision_at_1"),
        next((value for name, value in metrics.items() if name.startswith(_ANN_RECALL)), None),
        None if verdict is None else "forced" if forced else "pass" if verdict.passed else "FAIL",
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _states(release: str, pointer: Pointer | None, tagged: list[str]) -> list[str]:
    states = {pointer.previous: ["previous"], pointer.release: ["live"]} if pointer else {}
    return [*states.get(release, []), *(f"#{name}" for name in tagged)]


def _read(folder: Path, manifest: Manifest) -> tuple[dict[str, Any], Verdict | None, bool]:
    """Metrics, verdict, and whether every file is there and these can be read: a damaged release does not hide the others."""
    metrics: dict[str, Any] = {}
    verdict = None
    try:
        whole = releases.looks_whole(folder, manifest)
        if manifest.has(METRICS_JSON):
            metrics = _inner(files.read_json(releases.resolve(folder, manifest.file(METRICS_JSON))), "metrics")
        if manifest.has(VERDICT_JSON):
            verdict = Verdict.load(releases.resolve(folder, manifest.file(VERDICT_JSON)))
    except _UNREAD:
        whole = False
    return metrics, verdict, whole


def _inner(data: Any, key: str) -> dict[str, Any]:
    """An object in an object; empty where there is none."""
    inner = data.get(key) if isinstance(data, dict) else None
    return inner if isinstance(inner, dict) else {}
