"""jinja2's immutable sandbox, with every loop, call, operator and text accounted for.

A chat template is a program that comes with downloaded weights. jinja2's sandbox keeps it away from Python's
insides; this one also bounds what it computes (`chat_meter`) and lists what it may call (`chat_rules`). The
syntax tree is rewritten before it is compiled (`chat_tree`), so that every loop and text passes the meter,
and nothing is evaluated at compile time (jinja2 would fold constants such as `'a' * 10**9`).

Not bounded: the time to compile a template of the allowed length (some seconds in the worst case tried), and
the gap between two looks at the clock, which is one operation on a value of the allowed size, or one pass
through a piece of template without loop, call or operator.
"""

from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Template, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import LoopControlExtension
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace
from markupsafe import Markup

from locum.engine.chat_meter import METER, Counted, LimitError, check_printf, check_width, footprint
from locum.engine.chat_rules import (
    ATTRIBUTES,
    METHODS,
    Granted,
    call_method,
    filters,
    template_globals,
    tests,
)
from locum.engine.chat_tree import CONCAT, ITERATE, KEEP, TOUCH, GenerationTag, Instrument

_BITS = 4096


class _Formatter(SandboxedFormatter):
    """`str.format` with widths and results checked piece by piece."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        check_width(format_spec)
        METER.get().touch(value)
        return METER.get().keep(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        METER.get().touch(value)
        return METER.get().keep(super().convert_field(value, conversion))


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox in which chat templates run. Needs a `METER` set while rendering."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_put_out,
            cache_size=0,
            extensions=[GenerationTag, LoopControlExtension],
        )
        added: dict[str, Callable[..., Any]] = {ITERATE: Counted, TOUCH: _touch, KEEP: _keep, CONCAT: _concat}
        self.filters: Any = {**filters(), **added}
        self.tests: Any = tests()
        self.globals = template_globals()

    def build(self, source: str) -> Template:
        """Parse, rewrite and compile. Raises jinja2's `TemplateSyntaxError`, or what compiling raises."""
        tree = Instrument().visit(self.parse(source))
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Attributes by type: methods of plain values, what loops offer, names in a namespace; no more."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if isinstance(obj, tuple) and attr in getattr(type(obj), "_fields", ()):
            return True  # the pairs that groupby makes
        if isinstance(obj, Namespace | Macro | BlockReference):
            return True
        for kind, names in {**METHODS, **ATTRIBUTES}.items():
            if isinstance(obj, kind):
                return attr in names
        return False

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As in jinja2; a tuple as key is weighed before it is hashed."""
        if isinstance(argument, tuple):
            METER.get().touch(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Granted | None:
        """`str.format`, bounded. Not on escaped text."""
        owner = getattr(value, "__self__", None)
        if not isinstance(value, BuiltinMethodType) or value.__name__ != "format" or type(owner) is not str:
            return None
        return Granted(lambda *args, **kwargs: _Formatter(self).vformat(owner, args, kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator between two values, refused before it makes something huge."""
        meter = METER.get()
        meter.spend(1)
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            check_printf(meter, left, right)
        elif operator == "+" and (isinstance(left, Markup) or isinstance(right, Markup)):
            meter.ask(6 * (footprint(left) + footprint(right)))
        elif operator == "+":
            meter.ask(footprint(left) + footprint(right))
        return meter.keep(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, PYI063
        """Call what may be called: macros, loops, blocks, granted functions, allowed methods."""
        meter, kind = METER.get(), type(__obj)
        meter.spend(2)
        if meter.depth == 0:
            raise LimitError("its macros or loops call each other too deep")
        meter.depth -= 1
        try:
            if kind is BuiltinMethodType or kind is MethodType:
                kwargs = {name: kwargs[name] for name in kwargs if name not in ("_loop_vars", "_block_vars")}
                return _call_method(__obj, args, kwargs)
            if kind is LoopContext and args:
                args = (Counted(args[0], 1), *args[1:])
            elif kind not in (Macro, BlockReference, Granted, Joiner) and not isinstance(__obj, Undefined):
                raise SecurityError(f"{kind.__name__} cannot be called")
            return meter.keep(__context.call(__obj, *args, **kwargs))
        finally:
            meter.depth += 1


def _call_method(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    meter, owner, name = METER.get(), method.__self__, method.__name__
    if not any(isinstance(owner, kind) and name in names for kind, names in METHODS.items()):
        raise SecurityError(f"{type(owner).__name__}.{name} cannot be called")
    if isinstance(owner, LoopContext | Cycler):
        meter.touch(args, kwargs)
        return method(*args, **kwargs)
    return call_method(meter, owner, name, args, kwargs)


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            METER.get().ask((footprint(value) - footprint(value[:0])) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _BITS:
        raise LimitError("a number grows too large")


def _check_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _BITS:
        raise LimitError("a number grows too large")


@pass_context
def _put_out(context: Context, value: Any) -> str:
    """Every text that is put out, in the prompt or into a block, passes here (jinja2 calls it `finalize`)."""
    meter = METER.get()
    if isinstance(value, str):
        meter.spend(1)
    else:
        meter.touch(value)
    text = str(value)
    meter.make(footprint(text))
    return text


def _touch(value: Any) -> Any:
    METER.get().touch(value)
    return value


def _keep(value: Any) -> Any:
    METER.get().spend(1)
    return METER.get().keep(value)


def _concat(values: list[Any]) -> Any:
    METER.get().ask(4 * METER.get().touch(values))
    return METER.get().keep(str_join(values))
