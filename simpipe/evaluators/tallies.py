"""Tables of integers by key: what classes, slices and confusion are counted in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

ONE = 1 << 32  # fixed point: sums of so many-th parts are the same in any order; 2^31 queries fit


def fixed(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] in fixed point: int64[n]."""
    return np.rint(np.asarray(values, np.float64) * ONE).astype(np.int64)


def tally(keys: Mapping[str, pa.Array], values: Mapping[str, np.ndarray]) -> pa.Table:
    """Sums int64 by key, ordered by key (null last); keys are strings."""
    columns = {name: key.cast(pa.large_string()) for name, key in keys.items()}
    return _summed(pa.table({**columns, **{name: pa.array(value, pa.int64()) for name, value in values.items()}}), list(keys))


def merge_tallies(tables: Sequence[pa.Table], keys: Sequence[str]) -> pa.Table:
    """The tally over all of what several (at least one) tell of."""
    return tables[0] if len(tables) == 1 else _summed(pa.concat_tables(tables), list(keys))


def _summed(table: pa.Table, keys: list[str]) -> pa.Table:
    values = [name for name in table.column_names if name not in keys]
    summed = table.group_by(keys, use_threads=False).aggregate([(name, "sum") for name in values])
    summed = summed.select([*keys, *(f"{name}_sum" for name in values)]).rename_columns(table.column_names)
    return summed.sort_by([(key, "ascending") for key in keys]).combine_chunks()


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """int64[n]."""
    return table.column(column).to_numpy()
