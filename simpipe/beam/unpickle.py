"""Opens everything that workers would open of graphs, where nothing but the installed package can be imported.

python -I -m simpipe.beam.unpickle FOLDER (of `*.pb`, graphs as runners get them; prints JSON)
"""

from __future__ import annotations

import base64
import bz2
import io
import json
import pickle
import pickletools
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apache_beam.portability.api import beam_runner_api_pb2
from google.protobuf.wrappers_pb2 import BytesValue

_PICKLED = "pickled"
_NESTED = {
    "beam:transform:pardo:v1": beam_runner_api_pb2.ParDoPayload,
    "beam:transform:combine_per_key:v1": beam_runner_api_pb2.CombinePayload,
    "beam:transform:combine_globally:v1": beam_runner_api_pb2.CombinePayload,
    "beam:transform:combine_grouped_values:v1": beam_runner_api_pb2.CombinePayload,
    "beam:transform:combine_per_key_precombine:v1": beam_runner_api_pb2.CombinePayload,
    "beam:transform:combine_per_key_merge_accumulators:v1": beam_runner_api_pb2.CombinePayload,
    "beam:transform:combine_per_key_extract_outputs:v1": beam_runner_api_pb2.CombinePayload,
}
# What a worker has besides simpipe's own code, and what pickles are made of.
_KNOWN = {"simpipe", "apache_beam", "numpy", "pyarrow", "pydantic", "pydantic_core", "google", *sys.stdlib_module_names}


def payloads(graph: beam_runner_api_pb2.Pipeline) -> Iterator[tuple[str, bytes]]:
    """All pickled parts of a graph: where each stands, and its bytes."""
    for coder_id, coder in graph.components.coders.items():
        if _PICKLED in coder.spec.urn:
            named = BytesValue.FromString(coder.spec.payload).value  # CLASS$PICKLE
            yield coder_id, named.partition(b"$")[2]
    for transform in graph.components.transforms.values():
        specs = [transform.spec]
        if kind := _NESTED.get(transform.spec.urn):
            inner: Any = kind.FromString(transform.spec.payload)
            specs = [inner.do_fn] if hasattr(inner, "do_fn") else [inner.combine_fn]
            for side in getattr(inner, "side_inputs", {}).values():
                specs += [side.view_fn, side.window_mapping_fn]
        for spec in specs:
            if _PICKLED in spec.urn:
                yield transform.unique_name, spec.payload


class _Recording(pickle.Unpickler):
    """Notes the modules that a pickle names."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.modules: set[str] = set()

    def find_class(self, module_name: str, global_name: str) -> Any:
        self.modules.add(module_name)
        return super().find_class(module_name, global_name)


def opened(payload: bytes) -> set[str]:
    """Unpickles a payload of Beam's; the modules that it names, also those that its functions say they are of.

    Raises:
      Exception: whatever unpickling raises.
    """
    packed = base64.b64decode(payload)
    data = bz2.decompress(packed) if packed.startswith(b"BZh") else zlib.decompress(packed)
    found = _Recording(data)
    found.load()
    # Functions and classes that are pickled whole, as those of __main__ are, name their module as a text.
    texts = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    return found.modules | {text for text in texts if text.partition(".")[0] in ("__main__", "pipelines", "tests")}


def report(folder: Path) -> dict[str, Any]:
    """Opens all graphs of a folder; `opened` counts by graph, and `problems`."""
    counts: dict[str, int] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.pb")):
        graph = beam_runner_api_pb2.Pipeline.FromString(path.read_bytes())
        counts[path.stem] = 0
        for where, payload in payloads(graph):
            try:
                modules = opened(payload)
            except Exception as error:  # whatever it is, a worker would end with it
                problems.append(f"{path.stem}: {where}: cannot be opened ({type(error).__name__}: {error})")
                continue
            counts[path.stem] += 1
            strange = sorted(module for module in modules if module.partition(".")[0] not in _KNOWN or module == "__main__")
            if strange:
                problems.append(f"{path.stem}: {where}: takes code of {', '.join(strange)}, which no worker has")
    heavy = [name for name in ("tensorflow", "keras") if name in sys.modules]
    if heavy:
        problems.append(f"opening the graphs loads {' and '.join(heavy)}: every worker would, whatever it does")
    return {"opened": counts, "problems": problems, "simpipe": sys.modules["simpipe"].__file__}


if __name__ == "__main__":
    print(json.dumps(report(Path(sys.argv[1])), indent=2))
