"""What Beam works out again for each of a pipeline's hundreds of steps is remembered: half of a small pipeline's time.

Two functions, whose answers depend on nothing but their arguments: the signature of a method of a DoFn, and how the flags of
a pipeline read as options. `test_beam_memory.py` holds what is remembered against what Beam says itself.
"""

from __future__ import annotations

import sys
import weakref
from argparse import Namespace
from types import MethodType
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

args_defaults = core.get_function_args_defaults
read_options = PipelineOptions.__init__
_methods: weakref.WeakKeyDictionary[Any, tuple[list[str], list[Any]]] = weakref.WeakKeyDictionary()
_options: dict[tuple[type, tuple[str, ...]], Namespace] = {}


def remembered_args_defaults(f: Any) -> tuple[list[str], list[Any]]:
    """`get_function_args_defaults`: names and defaults of arguments, without the bound one."""
    if not isinstance(f, MethodType):
        return args_defaults(f)
    found = _methods.get(f.__func__)
    if found is None:
        found = _methods[f.__func__] = args_defaults(f)
    return list(found[0]), list(found[1])


def remembered_options(self: PipelineOptions, flags: Any = None, **kwargs: Any) -> None:
    """`PipelineOptions.__init__`, which builds a parser for its class and reads the flags with it."""
    if isinstance(flags, str):
        return read_options(self, flags, **kwargs)
    key = (type(self), tuple(sys.argv[1:] if flags is None else flags))
    found = _options.get(key)
    if found is None:
        read_options(self, flags, **kwargs)
        _options[key] = _copy(self._visible_options)
        return None
    self._flags, self._visible_options, self._all_options = flags, _copy(found), kwargs
    for name, value in vars(self._visible_options).items():
        self._all_options.setdefault(name, value)
    return None


def _copy(options: Namespace) -> Namespace:
    """Lists are the reader's own: options are changed in place."""
    return Namespace(**{name: list(value) if isinstance(value, list) else value for name, value in vars(options).items()})


def remember() -> None:
    core.get_function_args_defaults = remembered_args_defaults
    PipelineOptions.__init__ = remembered_options
