"""YAML into plain values, these into frozen dataclasses; a mistake ends in one sentence with what would be valid."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from scpseg.errors import UserError

T = TypeVar("T")
ADVICE = "; correct it there"
"""How the advice begins that ends a refusal."""
MOST = 2**16
"""The upper end of a range that names none: a typing error ends here, not in the machine's memory."""
MANY = 24
"""Known names beyond which only the nearest are listed."""
FEW = 5


@dataclass(frozen=True)
class Range:
    """Valid numbers: low..high, `low` itself excluded where `above` is set."""

    low: float = -math.inf
    high: float = MOST
    above: bool = False

    def problem(self, value: float) -> str | None:
        """None for a valid value, else what is expected and the nearest valid value."""
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
    """A bound as people write it, whole numbers with all their digits."""
    return str(int(value)) if value == int(value) else f"{value:g}"


Positive = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]


def nearest(name: object, known: Iterable[str]) -> str:
    """The closest known name in words; where none is close all of them, or a few of very many."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(known) > MANY:
        few = difflib.get_close_matches(str(name), known, n=FEW, cutoff=0.3) or known[:FEW]
        return f"{len(known)} are known, such as {', '.join(few)}"
    return f"known: {', '.join(known)}" if known else "there is none to choose"


def refusal(file: str, key: str, value: object, why: str) -> UserError:
    """The sentence for an impossible value; `why` names what is valid."""
    return UserError(f"{file}: {key} is {value!r}, but {why}{advice(file, key)}")


def advice(file: str, key: str | None = None) -> str:
    """What to do about a mistake in `file`, or with the value of `key` in it."""
    if file != "params.yaml":
        return ADVICE
    other = f" or with `-S {key}=...`" if key else ""
    return f"{ADVICE}{other} (`git checkout params.yaml` puts the whole committed file back)"


def plain(text: str, file: str) -> Any:
    """The values of a YAML text.

    Raises:
        UserError: a key stands twice or is no text, or DVC, which reads YAML 1.2, would find another value.
        yaml.YAMLError, ValueError: the text is no YAML.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        _refuse_doubtful(root, file, "", set())
    return yaml.safe_load(text)


def _refuse_doubtful(node: yaml.Node, file: str, name: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _refuse_doubtful(entry, file, name, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                shown = f"key {key.value}" if isinstance(key, yaml.ScalarNode) else "a key"
                raise UserError(f"{file}: line {line} has {shown}, which is no name; correct or remove that line")
            inner = f"{name}.{key.value}" if name else key.value
            if key.value in lines:
                raise UserError(f"{file}: {inner} stands twice, in lines {lines[key.value]} and {line}; keep one")
            lines[key.value] = line
            _refuse_doubtful(value, file, inner, seen)
    elif node.tag == "tag:yaml.org,2002:bool" and node.value.lower() not in ("true", "false"):
        raise UserError(f"{file}: {name} is {node.value} in line {line}; write true or false, or quote it as a text")
    elif node.tag.endswith((":int", ":float")) and re.match(r"[-+]?0[0-9_]+$|.*:", node.value):
        why = "which is one number to this suite and something else to DVC; write a plain number"
        raise UserError(f"{file}: {name} is {node.value} in line {line}, {why}")


def build(cls: type[T], values: object, where: str, file: str = "params.yaml") -> T:
    """Make dataclass `cls` from the plain mapping `values` of section `where`.

    Raises:
        UserError: no mapping, an unknown or missing key, a wrong type, a value outside its range.
    """
    assert is_dataclass(cls)
    if not isinstance(values, Mapping):
        got = "is missing or empty" if values is None else f"is {values!r}, not a section of keys"
        raise UserError(f"{file}: section {where} {got}; write it as in profiles/*.yaml{_whole(file)}")
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]
    for key in values:
        if key not in names:
            raise UserError(f"{file}: {where}.{key} is no parameter ({nearest(key, names)}){advice(file)}")
    for name in names:
        if name not in values:
            raise UserError(f"{file}: {where}.{name} is missing; add it as in profiles/*.yaml{_whole(file)}")
    made = {name: _value(hints[name], values[name], f"{where}.{name}", file) for name in names}
    result: T = cls(**made)
    return result


def _whole(file: str) -> str:
    return ", or put the whole file back with `git checkout params.yaml`" if file == "params.yaml" else ""


class _Mismatch(Exception):
    """The value is not of the asked type; the message says what is expected."""


class _Within(_Mismatch):
    """The value is of the asked type, but not a valid one."""


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
            raise _Within(f"its entry {entry!r} is not valid: {problem}") from None
    if len(set(made)) != len(made):
        raise _Within("it names an entry twice; every entry must stand once")
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
