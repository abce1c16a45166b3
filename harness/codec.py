"""Frozen dataclasses to JSON and back, by their type hints.

The worker runs on hosts that have only torch, triton, numpy and the standard library, so the
libraries that do this elsewhere (cattrs, msgspec) cannot be used where records are written.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from harness.errors import RecordError, UnknownKeyError

T = TypeVar("T")


def to_data(value: object) -> Any:
    """Dataclasses, tuples, enums and plain values as what `json` can write."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_data(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_data(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers; as text, every reader of the file understands the line.
        return str(value)
    return value


def to_json(value: object) -> str:
    """One line of JSON."""
    return json.dumps(to_data(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


@cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    """Of each field its type, and whether the file may leave it out."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: (
            hints[field.name],
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
    }


def from_data(kind: Any, data: Any, where: str = "record") -> Any:
    """The value of type `kind` that `to_data` made `data` from.

    Keys the type does not know are refused; fields that are absent take their defaults.

    Raises:
        RecordError: with the path to the value that does not fit; UnknownKeyError for a key.
    """
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if data is None and len(options) < len(typing.get_args(kind)):
            return None
        assert len(options) == 1, f"{kind}: unions other than with None are not stored"
        return from_data(options[0], data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise RecordError(f"{where}: expected a list, found {data!r}.")
        args = typing.get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            if args[0] is float and all(type(item) is float for item in data):
                return tuple(data)  # Samples: most of what a record holds.
            args = (args[0],) * len(data)
        if len(args) != len(data):
            raise RecordError(f"{where}: expected {len(args)} values, found {len(data)}.")
        return tuple(
            from_data(arg, item, f"{where}[{index}]")
            for index, (arg, item) in enumerate(zip(args, data, strict=True))
        )
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return _dataclass_from_data(kind, data, where)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(data)
        except ValueError:
            allowed = ", ".join(kind)
            raise RecordError(f"{where}: {data!r} is not one of {allowed}.") from None
    if kind is float and (
        data in ("inf", "-inf", "nan") or (isinstance(data, int) and not isinstance(data, bool))
    ):
        return float(data)
    if kind is Any or (isinstance(data, kind) and not (kind is int and isinstance(data, bool))):
        return data
    raise RecordError(f"{where}: expected {kind.__name__}, found {data!r}.")


def _dataclass_from_data(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise RecordError(f"{where}: expected an object, found {data!r}.")
    fields = _fields(kind)
    for name in data:
        if name not in fields:
            raise UnknownKeyError(
                f"{where}: unknown key '{name}'; it may come from a newer chipscale."
            )
    values = {}
    for name, (hint, may_be_absent) in fields.items():
        if name in data:
            values[name] = from_data(hint, data[name], f"{where}.{name}")
        elif not may_be_absent:
            raise RecordError(f"{where}: key '{name}' is missing.")
    return kind(**values)


def from_json(kind: type[T], text: str, where: str = "record") -> T:
    """The value of type `kind` that `to_json` wrote as `text`.

    Raises:
        RecordError: when the text is not JSON or does not fit the type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: not JSON ({error}).") from None
    value = from_data(kind, data, where)
    assert isinstance(value, kind)
    return value
