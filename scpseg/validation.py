"""Read YAML into plain values, and plain values into frozen dataclasses; errors name the valid values."""

from __future__ import annotations

import difflib
import math
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from scpseg.errors import UserError

T = TypeVar("T")
ADVICE = "; correct it there"
"""Prefix of the hint at the end of every validation error."""
MOST = 2**16
"""Default upper bound of a range, so that a typing error is rejected before it exhausts the memory."""
MANY = 24
"""With more known names than this, messages list only the nearest."""
FEW = 5


@dataclass(frozen=True)
class Range:
    """Valid numbers: low..high, without `low` itself if `above` is set."""

    low: float = -math.inf
    high: float = MOST
    above: bool = False

    def problem(self, value: float) -> str | None:
        """What is expected and the nearest valid value, or None if the value is valid."""
        if (value > self.low if self.above else value >= self.low) and value <= self.high:
            return None
        span = f"{'above' if self.above else 'at least'} {_digits(self.low)} and " if self.low > -math.inf else ""
        if value > self.high:
            near = f"the nearest valid value is {_digits(self.high)}"
        elif self.above:
            near = f"take a value above {_digits(self.low)}"
        else:
            near = f"the nearest valid value is {_digits(self.low)}"
        return f"it must be {span}at most {_digits(self.high)}; {near}"


def _digits(value: float) -> str:
    """A bound as text; whole numbers with all their digits."""
    return str(int(value)) if value == int(value) else f"{value:g}"


Positive = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint with the closest known name, or with all known names (or a few of very many) if none is close."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(known) > MANY:
        few = difflib.get_close_matches(str(name), known, n=FEW, cutoff=0.3) or known[:FEW]
        return f"{len(known)} are known, such as {', '.join(few)}"
    return f"known: {', '.join(known)}" if known else "none are known"


def invalid(file: str, key: str, value: object, why: str) -> UserError:
    """The error for an invalid value; `why` says what is valid."""
    return UserError(f"{file}: {key} is {shorten(repr(value))}, but {why}{advice(file, key)}")


def advice(file: str, key: str | None = None) -> str:
    """A hint how to correct an error in `file`, or in the value of `key` in it."""
    if file != "params.yaml":
        return ADVICE
    other = f" or with `-S {key}=...`" if key else ""
    return f"{ADVICE}{other} (`git checkout params.yaml` restores the committed file)"


def parse_yaml(text: str, file: str) -> Any:
    """Parse a YAML 1.2 text with the parser of DVC, so that both read the same values.

    Raises:
        UserError: the text is not valid YAML, is too deep, or has a duplicated key or a key that is not a string.
    """
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        # Only the message of the parser names the key.
        key = str(error.problem).partition('"')[2].partition('"')[0]
        line = error.problem_mark.line + 1
        raise UserError(f"{file}: key {key} is duplicated in line {line}; keep one of them") from None
    except RecursionError:
        raise UserError(f"{file} is nested too deeply to be read{advice(file)}") from None
    except (YAMLError, ValueError, TypeError) as error:
        reason = shorten(" ".join(str(error).split()), 300)
        raise UserError(f"{file} is not valid YAML ({reason}){advice(file)}") from None
    _check_keys(values, file, "", set())
    return values


def _check_keys(values: Any, file: str, name: str, seen: set[int]) -> None:
    if id(values) in seen:  # an alias
        return
    seen.add(id(values))
    if isinstance(values, Mapping):
        for key, value in values.items():
            inner = f"{name}.{key}" if name else f"{key}"
            if not isinstance(key, str):
                raise UserError(f"{file}: key {shorten(inner)} is not a string; quote it, or correct it")
            _check_keys(value, file, inner, seen)
    elif isinstance(values, list):
        for value in values:
            _check_keys(value, file, name, seen)


def shorten(text: str, most: int = 80) -> str:
    """Shorten a text for a message to about `most` characters by cutting out its middle."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"


def build(cls: type[T], values: object, where: str, file: str = "params.yaml") -> T:
    """Build dataclass `cls` from the plain mapping `values` of section `where`.

    Raises:
        UserError: not a mapping, an unknown or missing key, a wrong type, or a value outside its range.
    """
    assert is_dataclass(cls)
    if not isinstance(values, Mapping):
        got = "is missing or empty" if values is None else f"is {shorten(repr(values))}, not a section of keys"
        raise UserError(f"{file}: section {where} {got}; write it as in profiles/*.yaml{_whole(file)}")
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]
    for key in values:
        if key not in names:
            raise UserError(
                f"{file}: unknown parameter {where}.{shorten(str(key))} ({nearest(key, names)}){advice(file)}"
            )
    needed = [field.name for field in fields(cls) if field.default is MISSING]
    for name in needed:
        if name not in values:
            raise UserError(f"{file}: {where}.{name} is missing; add it as in profiles/*.yaml{_whole(file)}")
    made = {name: _value(hints[name], values[name], f"{where}.{name}", file) for name in names if name in values}
    result: T = cls(**made)
    return result


def _whole(file: str) -> str:
    return ", or restore the file with `git checkout params.yaml`" if file == "params.yaml" else ""


class _Mismatch(Exception):
    """The value has the wrong type; the message says what is expected."""


class _Within(_Mismatch):
    """The value has the right type but is not valid."""


def _value(hint: Any, value: Any, key: str, file: str) -> Any:
    try:
        return _convert(hint, value)
    except _Mismatch as problem:
        raise invalid(file, key, value, str(problem)) from None


def _convert(hint: Any, value: Any) -> Any:
    """Convert `value` to the type `hint` (bool, int, float, str, Literal, tuple, union, each possibly with a Range)."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, valid = get_args(hint)
        value = _convert(inner, value)
        problem = valid.problem(value)
        if problem:
            raise _Within(problem)
        return value
    if origin is Literal:
        options = get_args(hint)
        if not any(value == option and type(value) is type(option) for option in options):
            some = "one of " if len(options) > 1 else ""
            raise _Mismatch(f"it must be {some}{', '.join(map(str, options))}{_hint(value, options)}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value)
    if origin is tuple:
        if not isinstance(value, list) or not value:
            raise _Mismatch("it must be a list with at least one entry")
        return _convert_list(get_args(hint)[0], value)
    return _convert_scalar(hint, value)


def _convert_list(item: Any, values: list[Any]) -> tuple[Any, ...]:
    made = []
    for entry in values:
        try:
            made.append(_convert(item, entry))
        except _Mismatch as problem:
            raise _Within(f"its entry {shorten(repr(entry))} is not valid: {problem}") from None
    if len(set(made)) != len(made):
        raise _Within("it has duplicated entries; keep one of each")
    return tuple(made)


def _convert_union(options: tuple[Any, ...], value: Any) -> Any:
    if tuple[()] in options:
        (filled,) = (option for option in options if option != tuple[()])
        if not isinstance(value, list):
            raise _Mismatch("it must be a list, which may be empty")
        return _convert(filled, value) if value else ()
    problems = []
    for option in options:
        try:
            return _convert(option, value)
        except _Within:
            raise
        except _Mismatch as problem:
            problems.append(str(problem).removeprefix("it must be "))
    raise _Mismatch("it must be " + ", or ".join(problems))


def _convert_scalar(hint: Any, value: Any) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        words = {float: "a number", int: "a whole number", bool: "true or false", str: "a string", type(None): "null"}
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
