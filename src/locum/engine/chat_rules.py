"""What a chat template may call: methods of plain values, filters, tests and globals, each with its guard.

Everything here is a list of what is allowed. Left out on purpose are jinja's filters for web pages (urlize,
xmlattr, striptags, wordwrap, urlencode, forceescape), pprint, filesizeformat, and random, which would make a
prompt depend on chance.
"""

import functools
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import LoopContext
from jinja2.sandbox import safe_range
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Joiner, Namespace, _PassArg

from locum.engine.chat_meter import (
    METER,
    LimitError,
    Meter,
    check_integers,
    check_printf,
    check_replace,
    check_search,
    counted,
    footprint,
)

_MANY = 100_000
_STR = """
capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal isdigit
isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition
removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith
strip swapcase title upper zfill
"""
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_STR.split()),
    dict: frozenset(("get", "items", "keys", "values", "copy")),
    list: frozenset(("index", "count", "copy")),
    tuple: frozenset(("index", "count")),
    LoopContext: frozenset(("cycle", "changed")),
    Cycler: frozenset(("next", "reset")),
}
_LOOP = ("index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0")
ATTRIBUTES: dict[type, frozenset[str]] = {
    LoopContext: METHODS[LoopContext].union(_LOOP, ("previtem", "nextitem")),
    Cycler: METHODS[Cycler] | {"current"},
}

_WITHOUT = {"urlize", "xmlattr", "striptags", "wordwrap", "urlencode", "forceescape", "pprint", "random"}
_WITHOUT |= {"filesizeformat"}
# these look at a value, or at one item at a time, and need not be charged for all that is in it
_SHALLOW = {"length", "count", "first", "last", "default", "d", "list", "items", "map", "select", "reject"}
_SHALLOW |= {"selectattr", "rejectattr", "reverse", "batch", "slice", "sum", "attr", "tojson"}
_SHALLOW_TESTS = {"boolean", "callable", "defined", "divisibleby", "even", "odd", "false", "true", "float"}
_SHALLOW_TESTS |= {"integer", "iterable", "mapping", "none", "number", "sameas", "sequence", "string"}
_SHALLOW_TESTS |= {"undefined"}
# these take all items of a generator anyway
_CONSUMERS = {"join", "list", "sort", "sum", "min", "max", "groupby", "reverse", "dictsort", "last"}


class RefusedError(Exception):
    """The template called raise_exception."""


class Granted:
    """A function that templates may call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self._function(*args, **kwargs)


class TemplateNamespace(Namespace):
    """`namespace()`: private names are refused, they could make it pass for something else."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        values = dict(*rest, **kwargs)
        METER.get().make(512 + footprint(values))
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        METER.get().make(128)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def call_method(meter: Meter, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an allowed method of a str, list, tuple or dict within the meter's bounds."""
    if isinstance(owner, str):
        args = tuple(list(counted(arg)) if isinstance(arg, Iterator) else arg for arg in args)
        meter.touch(owner, args, kwargs)
        _check_text_method(meter, owner, name, args, kwargs)
    elif isinstance(owner, dict):
        meter.touch(args, kwargs)
    else:
        meter.touch(owner, args, kwargs)
    return meter.keep(getattr(owner, name)(*args, **kwargs), fresh=isinstance(owner, str))


def _check_text_method(
    meter: Meter, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    check_search(meter, text, *args, *kwargs.values())
    match name:
        case "center" | "ljust" | "rjust" | "zfill":
            check_integers(_MANY, *args)
        case "replace" if len(args) >= 2:
            check_replace(meter, text, args[0], args[1])
        case "join" if args and isinstance(args[0], list | tuple | dict):
            meter.ask(4 * len(text) * len(args[0]) + 4 * meter.touch(args[0]))
        case "split" | "rsplit":
            apart = args[0] if args else kwargs.get("sep")
            parts = text.count(apart) if isinstance(apart, str) and apart else len(text) // 2
            meter.ask(64 * (parts + 1))
        case "splitlines":
            meter.ask(64 * len(text))


def _check_filter(meter: Meter, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    value, options = args[0], (*args[1:], *kwargs.values())
    match name:
        case "center" | "indent" | "truncate" | "batch" | "slice":
            check_integers(_MANY, *options)
            width = max(
                (o if isinstance(o, int) else len(o) for o in options if isinstance(o, int | str)), default=4
            )
            if name == "indent" and isinstance(value, str):
                meter.ask(4 * (len(value) + (value.count("\n") + 1) * width))
        case "round":
            check_integers(100, *options)
        case "replace" if len(options) >= 2:
            check_replace(meter, str(value), options[0], options[1])
            check_replace(meter, str(value), options[1], options[0])  # by name they come in any order
        case "join":
            apart = max((len(o) for o in options if isinstance(o, str)), default=0)
            meter.ask(4 * apart * (len(value) if hasattr(value, "__len__") else 0) + 4 * meter.touch(value))
        case "format":
            check_printf(meter, str(value), kwargs or args[1:])
        case "sum" if any(isinstance(option, list | tuple | dict) for option in options):
            raise LimitError("lists cannot be summed")
        case "trim" if isinstance(value, str):
            check_search(meter, value, *options)


def _guarded(
    name: str, function: Callable[..., Any], shallow: bool, check: Callable[..., None] | None
) -> Callable[..., Any]:
    hidden = 0 if _PassArg.from_obj(function) is None else 1  # jinja hands these its context first

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        meter, own = METER.get(), args[hidden:]
        meter.spend(1)
        if own and name in _CONSUMERS and isinstance(own[0], Iterator):
            own = (list(counted(own[0])), *own[1:])
        meter.touch(own[1:], kwargs) if shallow else meter.touch(own, kwargs)
        if check is not None and own:
            check(meter, name, own, kwargs)
        return meter.keep(function(*args[:hidden], *own, **kwargs), fresh=True)

    return call


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    meter = METER.get()
    weight = meter.touch(value, separators)
    width = len(indent) if isinstance(indent, str) else int(indent or 0)
    width = max(width, 0) * 64 + (sum(map(len, separators)) if separators else 0)  # 64: the deepest nesting
    meter.ask(weight // 8 * width + weight)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: Any) -> None:
    METER.get().touch(message)
    raise RefusedError(str(message)[:1000])


def _strftime_now(form: str) -> str:
    if len(form) > 200:
        raise LimitError("a format of a date is too long")
    return datetime.now().strftime(form)  # local time, as the reader's calendar shows it


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    meter, made = METER.get(), dict[Any, Any]()
    for pairs in (*args, kwargs):
        for key, value in counted(pairs.items() if isinstance(pairs, dict) else pairs):
            meter.touch(key)
            meter.make(128)
            made[key] = value
    return made


def filters() -> dict[str, Callable[..., Any]]:
    """The filters a template may use."""
    kept: dict[str, Callable[..., Any]] = {n: f for n, f in FILTERS.items() if n not in _WITHOUT}
    kept["tojson"] = _tojson
    return {n: _guarded(n, function, n in _SHALLOW, _check_filter) for n, function in kept.items()}


def tests() -> dict[str, Callable[..., Any]]:
    """The tests (`is ...`) a template may use."""
    kept: dict[str, Any] = {**TESTS}
    return {n: _guarded(n, f, n in _SHALLOW_TESTS, None) for n, f in kept.items()}


def template_globals() -> dict[str, Any]:
    """The functions a template may call by name."""
    functions: dict[str, Callable[..., Any]] = {
        "range": safe_range,
        "dict": _dict,
        "namespace": TemplateNamespace,
        "cycler": Cycler,
        "joiner": Joiner,
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    return {name: Granted(function) for name, function in functions.items()}
