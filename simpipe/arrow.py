"""Arrow's compute functions. PyArrow makes them at import, where type checkers cannot see them."""

from __future__ import annotations

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
