"""What differs between two releases of a root: items, partitions, files, metrics, cutpoints, configuration, verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simpipe import files, releases
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.diff_items import compare_items
from simpipe.errors import ReleaseError
from simpipe.manifest import Manifest, ManifestFile
from simpipe.verdict import VERDICT_JSON, Verdict

METRICS_JSON = "metrics.json"
_PARTS = ("dim", "distance", "storage", "metadata", "store_files", "search")


def diff_releases(root: Path, one: str, other: str, *, ids: int = 10) -> dict[str, Any]:
    """Compares two releases, from `one` to `other`.

    Args:
      one, other: ids, tags, `live` or `previous`. ids: how many ids of each kind of change are named.

    Returns:
      JSON with `one` and `other` (what each is), `items`, `partitions`, `files`, and what differs: `metrics`, `cutpoints`,
      `index` (encoder, router, backend and others) and `config`, whose keys are dotted.

    Raises:
      ReleaseError: there is no such release, or a file that is compared is missing or altered.
    """
    with releases.holding(root, one) as before, releases.holding(root, other) as after:
        return {
            "one": _about(*before),
            "other": _about(*after),
            "items": compare_items(before, after, ids=ids),
            "partitions": _partitions(before[1], after[1]),
            "files": _files(before[1], after[1]),
            "metrics": _numbers(_metrics(*before), _metrics(*after)),
            "cutpoints": _cutpoints(_json(*before, CUTPOINTS_JSON), _json(*after, CUTPOINTS_JSON)),
            "index": _values(_index(before[1]), _index(after[1])),
            "config": _values(before[1].config, after[1].config),
        }


def _about(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "release": manifest.release,
        "created_at": manifest.created_at,
        "items": manifest.items,
        "partitions": len(manifest.partitions),
        "encoder": manifest.encoder.fingerprint,
        "router": manifest.router.get("kind"),
        "backend": manifest.backend.get("kind"),
        "verdict": _verdict(folder, manifest),
    }


def _verdict(folder: Path, manifest: Manifest) -> dict[str, Any] | None:
    """Whether the release passed its gates, and who published it although it did not; None where it was not judged."""
    if not manifest.has(VERDICT_JSON):
        return None
    verdict = Verdict.load(releases.verify_file(folder, manifest.file(VERDICT_JSON)))
    return {"passed": verdict.passed, "failed": list(verdict.failed), "forced": verdict.forced and verdict.forced.by}


def _partitions(before: Manifest, after: Manifest) -> dict[str, int]:
    """How many partitions of the later release have the files of the earlier one, with as many hidden rows or with others."""
    old = {part.partition: part for part in before.partitions}
    same, hidden = 0, 0
    for part in after.partitions:
        if part.partition not in old or _contents(before, part.partition) != _contents(after, part.partition):
            continue
        alike = part.hidden == old[part.partition].hidden
        same, hidden = same + alike, hidden + (not alike)
    return {"total": len(after.partitions), "rebuilt": len(after.partitions) - same - hidden, "hidden_only": hidden, "same": same}


def _contents(manifest: Manifest, partition: int) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.under(f"partitions/{partition:05d}")}


def _files(before: Manifest, after: Manifest) -> dict[str, int]:
    """Files of the later release that both share on disk, and the others; with bytes."""

    def place(manifest: Manifest, entry: ManifestFile) -> tuple[str, str]:
        return entry.release or manifest.release, entry.path

    there = {place(before, entry) for entry in before.files}
    shared = [entry.size for entry in after.files if place(after, entry) in there]
    new = [entry.size for entry in after.files if place(after, entry) not in there]
    return {"shared": len(shared), "shared_bytes": sum(shared), "new": len(new), "new_bytes": sum(new)}


def _json(folder: Path, manifest: Manifest, path: str) -> dict[str, Any]:
    """A JSON object of a release; empty where it has none."""
    if not manifest.has(path):
        return {}
    data = files.read_json(releases.verify_file(folder, manifest.file(path)))
    if not isinstance(data, dict):
        raise ReleaseError(f"release {manifest.release}: {path} holds no object", "run `simpipe evaluate`")
    return data


def _metrics(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return _json(folder, manifest, METRICS_JSON).get("metrics", {})


def _numbers(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Numbers of either that differ: `one`, `other` (None: it has none) and the difference."""
    found: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys([*before, *after]):
        one, other = (float(data[name]) if _is_number(data.get(name)) else None for data in (before, after))
        if one != other:
            found[name] = {"one": one, "other": other, "difference": None if one is None or other is None else other - one}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cutpoints(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Numbers that differ, by the name of the cutpoint; of one that only one release has all of them."""
    one, other = before.get("cutpoints", {}), after.get("cutpoints", {})
    compared = {name: _numbers(_measures(one.get(name)), _measures(other.get(name))) for name in dict.fromkeys([*one, *other])}
    return {name: numbers for name, numbers in compared.items() if numbers}


def _measures(cutpoint: Mapping[str, Any] | None) -> dict[str, Any]:
    """Without `value`, which is that of the metric that it was chosen by."""
    return {name: value for name, value in (cutpoint or {}).items() if name != "value"}


def _index(manifest: Manifest) -> dict[str, Any]:
    kept = manifest.model_dump(mode="json", include=set(_PARTS))
    return {"encoder": manifest.encoder.fingerprint, "router": manifest.router, "backend": manifest.backend, **kept}


def _values(before: Any, after: Any) -> dict[str, list[Any]]:
    """Values that differ, by dotted key: [one, other], None where there is none."""
    one, other = dict(_flat(before)), dict(_flat(after))
    keys = sorted(one.keys() | other.keys())
    return {key: [one.get(key), other.get(key)] for key in keys if one.get(key) != other.get(key)}


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{at}.{name}" if at else str(name))
    else:
        yield at, value
