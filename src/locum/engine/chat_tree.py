"""A chat template's syntax tree, rewritten so that all it does passes the meter.

jinja2's own node classes and transformer are used; the filters put in are those of `chat_sandbox`. Loops run
over counted values, fixed text is put out like computed text (so that it is counted), lists and slices are
counted as they are made, what is compared or used as a key is weighed first.
"""

from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

# names of filters that only the rewritten tree can use: a template cannot write a space in a name
ITERATE, TOUCH, KEEP, CONCAT = "locum iterate", "locum touch", "locum keep", "locum concat"


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words, for training. Here: a scope."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """The body between the two tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Instrument(NodeTransformer):
    """Puts the meter into a tree, in place. Raises `TemplateSyntaxError` for tags that are not allowed."""

    def get_visitor(self, node: nodes.Node) -> Any:
        """jinja2 asks for the method that rewrites this kind of node."""
        rule = _RULES.get(type(node))
        return None if rule is None else lambda node: rule(self.generic_visit(node))


def _through(name: str, node: Any, *args: nodes.Expr) -> nodes.Expr:
    passed = nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
    passed.environment = node.environment
    return passed


def _loop(node: Any) -> nodes.Node:
    """A pass costs as much as its body is large; defining macros in it is dear, they can be kept."""
    parts = node.find_all(nodes.Node)
    cost = 1 + sum(50 if isinstance(part, nodes.Macro | nodes.CallBlock) else 1 for part in parts) // 4
    node.iter = _through(ITERATE, node.iter, nodes.Const(cost, lineno=node.lineno))
    return node  # type: ignore[no-any-return]


def _made(node: Any) -> nodes.Node:
    return node if getattr(node, "ctx", "load") == "store" else _through(KEEP, node)


def _mapping(node: Any) -> nodes.Node:
    for pair in node.items:
        pair.key = _through(TOUCH, pair.key)
    return _made(node)


def _subscript(node: Any) -> nodes.Node:
    return _made(node) if isinstance(node.arg, nodes.Slice) else node


def _comparison(node: Any) -> nodes.Node:
    for place in (node, *node.ops):
        if not isinstance(place.expr, nodes.Const):
            place.expr = _through(TOUCH, place.expr)
    return node  # type: ignore[no-any-return]


def _joined(node: Any) -> nodes.Node:
    together = nodes.List(node.nodes, lineno=node.lineno)
    together.environment = node.environment
    return _through(CONCAT, together)


def _output(node: Any) -> nodes.Node:
    for place, part in enumerate(node.nodes):
        if isinstance(part, nodes.TemplateData):
            node.nodes[place] = nodes.Const(part.data, lineno=part.lineno)
    return node  # type: ignore[no-any-return]


def _refused(node: Any) -> nodes.Node:
    raise TemplateSyntaxError("a chat template cannot use other templates or switch escaping", node.lineno)


_RULES: dict[type[nodes.Node], Callable[[Any], nodes.Node]] = {
    nodes.For: _loop,
    nodes.List: _made,
    nodes.Tuple: _made,
    nodes.Dict: _mapping,
    nodes.Getitem: _subscript,
    nodes.Compare: _comparison,
    nodes.Concat: _joined,
    nodes.Output: _output,
    nodes.Include: _refused,
    nodes.Import: _refused,
    nodes.FromImport: _refused,
    nodes.Extends: _refused,
    nodes.EvalContextModifier: _refused,
    nodes.ScopedEvalContextModifier: _refused,
}
