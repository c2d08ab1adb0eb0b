"""Plain values into frozen dataclasses; a mistake ends in one sentence with the nearest valid value."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from scpseg.errors import UserError

T = TypeVar("T")
RESTORE = "restore the file with `git checkout params.yaml` or set another value with `-S {key}=...`"


@dataclass(frozen=True)
class Range:
    """Valid numbers: low..high, `low` itself excluded where `above` is set."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def problem(self, value: float) -> str | None:
        """None for a valid value, else what is expected and the nearest valid value."""
        if (value > self.low if self.above else value >= self.low) and value <= self.high:
            return None
        span = f"{'above' if self.above else 'at least'} {self.low:g}" if self.low > -math.inf else ""
        if self.high < math.inf:
            span += f"{' and ' if span else ''}at most {self.high:g}"
        if value > self.high:
            near = f"the nearest valid value is {self.high:g}"
        elif self.above:
            near = f"take a value above {self.low:g}"
        else:
            near = f"the nearest valid value is {self.low:g}"
        return f"it must be {span}; {near}"


Positive = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]


def nearest(name: object, known: Iterable[str]) -> str:
    """The closest known name in words, or all of them where none is close."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def refusal(file: str, key: str, value: object, why: str) -> UserError:
    """The sentence for an impossible value; `why` names what is valid."""
    return UserError(f"{file}: {key} is {value!r}, but {why}; {RESTORE.format(key=key)}")


def build(cls: type[T], values: object, where: str, file: str = "params.yaml") -> T:
    """Make dataclass `cls` from the plain mapping `values` of section `where`.

    Raises:
        UserError: no mapping, an unknown or missing key, a wrong type, a value outside its range.
    """
    assert is_dataclass(cls)
    if not isinstance(values, Mapping):
        got = "is missing" if values is None else f"is {values!r}, not a section of keys"
        raise UserError(f"{file}: section {where} {got}; {RESTORE.format(key=where)}")
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]
    for key in values:
        if key not in names:
            raise UserError(
                f"{file}: {where}.{key} is no parameter ({nearest(key, names)}); {RESTORE.format(key=f'{where}.KEY')}"
            )
    for name in names:
        if name not in values:
            raise UserError(f"{file}: {where}.{name} is missing; {RESTORE.format(key=f'{where}.{name}')}")
    made = {name: _value(hints[name], values[name], f"{where}.{name}", file) for name in names}
    result: T = cls(**made)
    return result


class _Mismatch(Exception):
    """The value is not of the asked type; the message says what is expected."""


def _value(hint: Any, value: Any, key: str, file: str) -> Any:
    try:
        return _convert(hint, value)
    except _Mismatch as problem:
        raise refusal(file, key, value, str(problem)) from None


def _convert(hint: Any, value: Any) -> Any:
    """`value` as `hint` (bool, int, float, str, Literal, tuple, union, each perhaps with a Range)."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, valid = get_args(hint)
        value = _convert(inner, value)
        problem = valid.problem(value)
        if problem:
            raise _Mismatch(problem)
        return value
    if origin is Literal:
        options = get_args(hint)
        if not any(value == option and type(value) is type(option) for option in options):
            raise _Mismatch(f"it must be one of {', '.join(map(str, options))}{_hint(value, options)}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value)
    if hint == tuple[()]:
        if value != []:
            raise _Mismatch("it must be an empty list")
        return ()
    if origin is tuple:
        if not isinstance(value, list) or not value:
            raise _Mismatch("it must be a list with at least one entry")
        item = get_args(hint)[0]
        made = tuple(_convert(item, entry) for entry in value)
        if len(set(made)) != len(made):
            raise _Mismatch("it names an entry twice; every entry must stand once")
        return made
    return _convert_scalar(hint, value)


def _convert_union(options: tuple[Any, ...], value: Any) -> Any:
    problems = []
    for option in options:
        try:
            return _convert(option, value)
        except _Mismatch as problem:
            problems.append(str(problem).removeprefix("it must be "))
    raise _Mismatch("it must be " + ", or ".join(problems))


def _convert_scalar(hint: Any, value: Any) -> Any:
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text where DVC reads a number.
        try:
            value = float(value)
        except ValueError:
            raise _Mismatch("it must be a number") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", type(None): "null"}
        raise _Mismatch(f"it must be {words[hint]}")
    return value


def _hint(value: Any, options: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(str(value), [str(option) for option in options], n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    numbers = [option for option in options if isinstance(option, int)]
    if isinstance(value, (int, float)) and numbers:
        return f" (the nearest is {min(numbers, key=lambda option: abs(option - value))})"
    return ""
