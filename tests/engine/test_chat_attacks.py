"""Hostile chat templates: each ends with a `PromptError` (or harmless text), soon and in little memory.

The limits used here differ from the default ones, to be quick; what they count is the same.
"""

import sys
import tracemalloc

import pytest
from jinja2.exceptions import SecurityError

from locum.engine.chat import ChatTemplate
from locum.engine.chat_meter import METER, ChatLimits, LimitError, Meter
from locum.engine.chat_sandbox import ChatEnvironment
from locum.errors import PromptError

# one limit at a time, so that each is seen to hold without the others; what gets away hangs the test
FEW_OPERATIONS = ChatLimits(work=20_000, made=1 << 40, seconds=1e9, depth=60)
LITTLE_TEXT = ChatLimits(work=1 << 60, made=1 << 20, seconds=1e9, depth=60)
NOT_DEEP = ChatLimits(work=1 << 60, made=1 << 40, seconds=1e9, depth=60)
CHAT = [{"role": "user", "content": "hi"}]
GROW = "{% set ns = namespace(x=SEED) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
SHARED = GROW.replace("SEED", "[1]").replace("STEP", "[ns.x, ns.x]")
SHARED_TUPLE = GROW.replace("SEED", "(1,)").replace("STEP", "(ns.x, ns.x)")


def attack(source, limits=None):
    return ChatTemplate(source, limits=limits).render(CHAT)


ENDLESS = {
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "loops over text": "{% for i in range(100000) %}{% for j in 'abc' * 9999 %}{% endfor %}{% endfor %}",
    "loop filter": "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "macro that doubles": "{% macro f(n) %}"
    "{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "generators in generators": "{% set ns = namespace(x=range(90000)) %}{% for i in range(50) %}"
    "{% set ns.x = ns.x|map('string') %}{% endfor %}{{ ns.x|list|length }}",
    "quadratic test": "{{ range(90000)|select('in', range(90000)|list)|list|length }}",
    "search from behind": "{{ ('a' * 400000).rfind('b' + 'a' * 200000) }}",
    "strip of many": "{{ ('b' * 400000).strip('a' * 200000 + 'b') }}",
    "recursive loop, wide": "{% for i in range(90) recursive %}"
    "{{ loop(range(90)) if loop.depth < 5 }}{% endfor %}",
}
HUGE = {
    "text times number": "{{ 'a' * 1000000000000 }}",
    "constant folded": "{% set x = 'a' * 10000000000 %}fine",
    "number times list": "{% set x = 10000000000 * [0] %}fine",
    "list of lists": "{{ (([[0] * 1000] * 1000) * 1000)|string }}",
    "doubling by ~": GROW.replace("SEED", "'aaaa'").replace("STEP", "ns.x ~ ns.x"),
    "doubling by +": GROW.replace("SEED", "'aaaa'").replace("STEP", "ns.x + ns.x"),
    "doubling a list": GROW.replace("SEED", "[1]").replace("STEP", "ns.x + ns.x"),
    "doubling by a block": "{% set x = 'aa' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "doubling by join": GROW.replace("SEED", "'aaaa'").replace("STEP", "[ns.x, ns.x]|join"),
    "doubling by replace": GROW.replace("SEED", "'aaaa'").replace("STEP", "ns.x|replace('a', 'aa')"),
    "doubling by format": GROW.replace("SEED", "'aaaa'").replace("STEP", "'{0}{0}'.format(ns.x)"),
    "doubling by printf": GROW.replace("SEED", "'aaaa'").replace("STEP", "'%s%s' % (ns.x, ns.x)"),
    "doubling by escaping": GROW.replace("SEED", "'&'").replace("STEP", "ns.x|e|string + ns.x"),
    "one text in many blocks": "{% macro f() %}" + "x" * 30000 + "{% endmacro %}"
    "{% for i in range(90000) %}{% set y = f() %}{% endfor %}",
    "one text put out often": "{% for i in range(90000) %}" + "x" * 30000 + "{% endfor %}",
    "squaring": GROW.replace("SEED", "3").replace("STEP", "ns.x * ns.x"),
    "power": "{{ 9 ** 9999999999 }}",
    "rounding": "{{ 1|round(-1000000000) }}",
    "rounding up": "{{ 1.5|round(1000000000, 'ceil') }}",
    "center by name": "{{ 'a'|center(width=10000000000) }}",
    "indent by name": "{{ ('\\n' * 9999)|indent(first=true, width='x' * 9999) }}",
    "join by name": "{{ range(9999)|join(attribute='real', d='x' * 9999) }}",
    "replace in map": "{{ ['a' * 9999]|map('replace', 'a', 'b' * 9999)|list|length }}",
    "center": "{{ 'a'|center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "zfill": "{{ 'a'.zfill(10000000000) }}",
    "printf width": "{{ '%1000000000d' % 1 }}",
    "printf starred": "{{ '%*d' % (1000000000, 1) }}",
    "printf nested key": "{{ '%(a(b))999999999s' % {'a(b)': 1} }}",
    "printf precision": "{{ '%-+ .999999999f' % 1.5 }}",
    "printf filter": "{{ '%999999999d'|format(1) }}",
    "printf repeated": "{{ ('%(a)s' * 9999) % {'a': 'x' * 99999} }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "format nested width": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "format repeated": "{{ ('{0}' * 9999).format('x' * 99999) }}",
    "join": "{{ ('x' * 99999).join(range(9999)|map('string')) }}",
    "join filter": "{{ range(9999)|join('x' * 99999) }}",
    "replace": "{{ ('a' * 9999).replace('a', 'b' * 99999) }}",
    "replace by name": "{{ ('a' * 9999)|replace(new='b' * 9999, old='a') }}",
    "replace nothing": "{{ ('a' * 9999)|replace('', 'b' * 99999) }}",
    "indent": "{{ ('\\n' * 99999)|indent(99999) }}",
    "indent by text": "{{ ('\\n' * 99999)|indent('x' * 9999) }}",
    "batch": "{{ [1]|batch(10000000000, 'x')|list }}",
    "slice": "{{ [1]|slice(10000000000)|list }}",
    "json indent": "{{ [1, 2]|tojson(indent=10000000000) }}",
    "json indent, nested": "{{ ([[[[[1]]]]] * 9999)|tojson(indent=999) }}",
    "json separators": "{{ ([1] * 9999)|tojson(separators=('x' * 9999, ':')) }}",
    "split": "{{ ('ab ' * 1000000).split()|length }}",
    "sum of lists": "{{ ([[1] * 99] * 50000)|sum(start=[])|length }}",
    "kept lists": "{% set ns = namespace(x=0) %}{% macro f(ns) %}{% set ns.x = [ns.x, ["
    + "0," * 2000
    + "]] %}{% endmacro %}{% for i in range(9999) %}{{ f(ns) }}{% endfor %}",
    "kept generators": GROW.replace("60", "90000")
    .replace("SEED", "0")
    .replace("STEP", "[ns.x, [1]|map('string')]"),
    "kept macros": "{% set ns = namespace(x=0) %}{% for i in range(99999) %}{% macro m() %}{% endmacro %}"
    "{% set ns.x = [ns.x, m] %}{% endfor %}",
    "names": "{% for i in range(99999) %}{% set d = dict([[i, 'x' * 999]]) %}{% endfor %}",
    "date": "{{ strftime_now('%c' * 400000) }}",
    "print what is shared": SHARED + "{{ ns.x }}",
    "compare what is shared": SHARED + "{% set a = ns.x %}" + SHARED + "{{ a == ns.x }}",
    "sort what is shared": SHARED + "{{ [ns.x, ns.x]|sort|length }}",
    "dump what is shared": SHARED + "{{ ns.x|tojson }}",
    "look up what is shared": SHARED_TUPLE + "{{ {}[ns.x] }}{{ {}.get(ns.x) }}",
    "key that is shared": SHARED_TUPLE + "{{ {ns.x: 1}|length }}",
    "find what is shared": SHARED_TUPLE + "{{ ns.x in {} }}",
    "test what is shared": SHARED_TUPLE + "{{ ns.x is filter }}",
    "notice what is shared": SHARED + "{% for i in [1, 2] %}{{ loop.changed(ns.x) }}{% endfor %}",
    "namespaces that share": "{% set ns = namespace(x=namespace()) %}{% for i in range(60) %}"
    "{% set ns.x = namespace(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "deep lists": GROW.replace("60", "2000").replace("SEED", "[]").replace("STEP", "[ns.x]") + "{{ ns.x }}",
}
DEEP = {
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macros in turn": "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "block": "{% block a %}{{ self.a() }}{% endblock %}",
    "caller": "{% macro f() %}{{ caller() }}{% endmacro %}"
    "{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
}


@pytest.mark.parametrize(
    ("source", "limits"),
    [
        *((source, FEW_OPERATIONS) for source in ENDLESS.values()),
        *((source, LITTLE_TEXT) for source in HUGE.values()),
        *((source, NOT_DEEP) for source in DEEP.values()),
    ],
    ids=[*ENDLESS, *HUGE, *DEEP],
)
def test_what_asks_for_too_much_is_stopped_in_little_memory(source, limits):
    tracemalloc.start()
    try:
        with pytest.raises(PromptError) as caught:
            attack(source, limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(caught.value.__cause__, LimitError), caught.value
    assert peak < 32 << 20


def test_many_equal_hashes_meet_the_clock():
    """Multiples of 2**61 - 1 all hash to 0: sets of them take quadratic time inside C, item by item."""
    source = "{% set m = 2305843009213693951 %}{{ range(0, m * 99999, m)|unique|list|length }}"
    with pytest.raises(PromptError, match="longer than"):
        attack(source, ChatLimits(seconds=0.2, work=1 << 60))


def test_the_default_limits_hold_as_well():
    for name in ("doubling by ~", "print what is shared"):
        with pytest.raises(PromptError, match="is stopped"):
            attack(HUGE[name])


@pytest.mark.parametrize(
    "tag", ["include '/etc/passwd'", "import 'os' as os", "from 'os' import system", "extends '/etc/passwd'"]
)
def test_other_files_cannot_be_used(tag):
    for source in ("{% " + tag + " %}", "{% if false %}{% " + tag + " %}{% endif %}"):
        with pytest.raises(PromptError, match="other templates"):
            ChatTemplate(source)


def test_escaping_cannot_be_switched():
    with pytest.raises(PromptError, match="switch escaping"):
        ChatTemplate("{% autoescape true %}{{ '<' }}{% endautoescape %}")


ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by key": "{{ ''['__class__']['__mro__'] }}",
    "class by attr": "{{ (''|attr('__class__')).__mro__ }}",
    "class by map": "{{ ['']|map(attribute='__class__.__mro__')|list|first|list }}",
    "class by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "class by format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "globals of a function": "{{ raise_exception.__globals__.items() }}",
    "inside of a function": "{{ strftime_now._function() }}",
    "init of a class": "{{ cycler.__init__.__globals__.x }}",
    "context": "{{ self._TemplateReference__context.environment }}",
    "init of self": "{{ self.__init__.__globals__.x }}",
    "environment of a macro": "{% macro m() %}{% endmacro %}{{ m._environment.filters }}",
    "function of a macro": "{% macro m() %}{% endmacro %}{{ m._func() }}",
    "iterator of a loop": "{% for i in [1] %}{{ loop._iterator.gi_frame }}{% endfor %}",
    "frame of a generator": "{{ ([1]|map('string')).gi_frame.f_back }}",
    "owner of a method": "{{ ''.format.__self__.x }}",
    "fake class of a namespace": "{% set ns = namespace() %}{% set ns.__class__ = 'str' %}",
    "fake class by keyword": "{{ namespace(__class__=1) }}",
    "fake class by mapping": "{{ namespace({'__class__': 1}) }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({}) }}",
    "pop by attr": "{{ (messages|attr('pop'))() }}",
    "bytes": "{{ 'a'.encode() }}",
    "translate": "{{ 'a'.translate({97: 'b' * 9}) }}",
    "big int to bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "call of a class": "{{ messages.__class__() }}",
    "lipsum": "{{ lipsum(n=10) }}",
    "call of a generator": "{{ ([1]|map('string'))() }}",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_python_is_out_of_reach(source):
    with pytest.raises(PromptError) as caught:
        attack(source)
    assert not isinstance(caught.value.__cause__, LimitError)


def test_nothing_but_what_is_granted_can_be_called():
    """Should a function ever come into reach, calling it is refused all the same."""
    environment = ChatEnvironment()
    token = METER.set(Meter(ChatLimits(), 0))
    try:
        for thing in (len, str, "".encode, [].append, lambda: 1, ChatLimits, "".format_map):
            with pytest.raises(SecurityError, match="cannot be called"):
                environment.call(None, thing)
    finally:
        METER.reset(token)


def test_nothing_is_computed_while_compiling():
    seen = []
    environment = ChatEnvironment()
    environment.filters["upper"] = seen.append
    environment.build(
        "{% set x = 'a'|upper %}{{ 'b'|upper }}{% if 'c'|upper %}{% endif %}{{ ('d'|upper) ~ 1 }}"
    )
    assert seen == []


def test_what_is_hidden_prints_as_nothing():
    """As in jinja2: an unsafe attribute is undefined; only using it raises."""
    assert attack("{{ ''['__class__'] }}|{{ [''] | map(attribute='__class__') | join }}") == "|"
    template = ChatTemplate("{{ ''.__class__.x }}")
    with pytest.raises(PromptError) as caught:
        template.render(CHAT)
    assert isinstance(caught.value.__cause__, SecurityError)


NESTED = {
    "parentheses": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "nots": "{{ " + "not " * 9000 + "1 }}",
    "sum": "{{ " + "1+" * 9000 + "1 }}",
    "filters": "{{ 'a'" + "|upper" * 9000 + " }}",
    "dots": "{{ a" + ".b" * 9000 + " }}",
    "lists": "{{ " + "[" * 9000 + "]" * 9000 + " }}",
    "ifs": "{% if 1 %}" * 2500 + "{% endif %}" * 2500,
    "fors": "{% for i in [1] %}" * 1500 + "{% endfor %}" * 1500,
    "open tags": "{{ " * 15000,
    "open comments": "{#" * 30000,
    "open raw": "{% raw %}" * 6000,
    "long number": "{{ " + "9" * 60000 + " }}",
    "long hex number": "{{ 0x" + "f" * 60000 + " }}",
}


@pytest.mark.parametrize("source", NESTED.values(), ids=NESTED)
def test_source_that_is_hard_to_compile_is_refused(source):
    before = sys.getrecursionlimit()
    with pytest.raises(PromptError, match="cannot be compiled"):
        ChatTemplate(source)
    assert sys.getrecursionlimit() == before


def test_a_long_template_is_not_even_parsed():
    with pytest.raises(PromptError, match="too long"):
        ChatTemplate("x" * (64 * 1024 + 1))
    assert attack("x" * 1000) == "x" * 1000


def test_budgets_grow_with_the_conversation():
    """A million characters in two thousand messages are nothing special."""
    chat = [{"role": ("user", "assistant")[n % 2], "content": "word " * 100} for n in range(2000)]
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set c = m.content.split('</x>')[-1]|trim %}"
        "{% if loop.index0 == messages|length - 1 %}last{% endif %}{% set ns.n = ns.n + c|length %}"
        "<{{ m.role }}>{{ c }}{% endfor %}{{ ns.n }}"
    )
    text = ChatTemplate(source).render(chat)
    assert text.endswith("word998000")


def test_an_interrupt_is_not_swallowed(monkeypatch):
    template = ChatTemplate("{{ strftime_now('%Y') }}")

    def interrupted(self, work):
        raise KeyboardInterrupt

    monkeypatch.setattr("locum.engine.chat_meter.Meter.spend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        template.render(CHAT)
