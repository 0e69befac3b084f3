"""Pictures of serialized `tf.train.Example` records without TensorFlow, whose import takes longer than what is read here."""

from __future__ import annotations

import functools
import io
from collections.abc import Collection
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from PIL import Image

from simpipe.data.examples import InputSpec
from simpipe.errors import ContractError

# The part of TensorFlow's example.proto and feature.proto that holds bytes; what is not listed is passed over.
_MESSAGES = {
    "BytesList": [("value", 1, "bytes", True)],
    "Feature": [("bytes_list", 1, "BytesList", False)],
    "Entry": [("key", 1, "string", False), ("value", 2, "Feature", False)],
    "Features": [("feature", 1, "Entry", True)],
    "Example": [("features", 1, "Features", False)],
}
_KINDS = {"bytes": 12, "string": 9}  # FieldDescriptorProto.TYPE_BYTES, TYPE_STRING
_MESSAGE, _ONE, _MANY = 11, 1, 3


def parse_pictures(records: Any, wanted: Collection[bytes], spec: InputSpec) -> dict[bytes, np.ndarray]:
    """The inputs of wanted examples by id, uint8 of `spec.shape`.

    Args:
      records: bytes of examples. wanted: ids. spec: of a picture, stored raw or as PNG or JPEG.

    Raises:
      ContractError: a record is no example.
    """
    found: dict[bytes, np.ndarray] = {}
    for record in records:
        if not record:  # a damaged one
            continue
        try:
            example = _example()()
            example.ParseFromString(record)
            features = {entry.key: entry.value.bytes_list.value for entry in example.features.feature}
            name = features["id"][0]
            if name in wanted:
                found[name] = _picture(features[spec.name][0], spec)
        except (DecodeError, KeyError, IndexError, ValueError, OSError) as error:
            raise ContractError(f"a record is no example with a picture ({error})", "run `simpipe shard` again") from None
    return found


def _picture(data: bytes, spec: InputSpec) -> np.ndarray:
    if spec.encoding == "raw":
        return np.frombuffer(data, np.uint8).reshape(spec.shape)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L" if spec.shape[2] == 1 else "RGB"), np.uint8).reshape(spec.shape)


@functools.cache
def _example() -> Any:
    """The class of examples, in a pool of its own: TensorFlow may have registered its own messages."""
    file = descriptor_pb2.FileDescriptorProto(name="simpipe/example.proto", package="simpipe", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, many in fields:
            made = message.field.add(name=field, number=number, label=_MANY if many else _ONE, type=_KINDS.get(kind, _MESSAGE))
            if kind not in _KINDS:
                made.type_name = f".simpipe.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("simpipe.Example"))
