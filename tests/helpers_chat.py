"""Chat templates in the styles of real models, and every word templates may use."""

CHATML = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_user=-1) %}
{%- for m in messages[::-1] %}
    {%- if ns.last_user < 0 and m.role == "user" %}
        {%- set ns.last_user = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "system" and loop.first %}{% continue %}{% endif %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set thought = '' %}
    {%- if message.reasoning_content is string %}
        {%- set thought = message.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if thought and loop.index0 > ns.last_user %}
        {{- '<think>\\n' ~ thought.strip() ~ '\\n</think>\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{%- set date_string = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message.role == 'assistant' %}
            {%- generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}
        {%- else %}
            {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endif %}
    {%- else %}
        {{- message.content | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """{%- set loop_messages = messages %}
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("user and assistant must take turns, not " + message.role) }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
CHANNELS = """{% macro kind_of(schema, level=0) -%}
    {%- if schema.type == 'array' %}{{ kind_of(schema['items'], level + 1) ~ '[]' }}
    {%- elif schema.type == 'object' %}{ {% for key, value in schema.properties|dictsort -%}
        {{ key }}{{ '?' if key not in schema.get('required', []) }}: {{ kind_of(value, level + 1) }}
        {{- ', ' if not loop.last }}{% endfor %} }
    {%- else %}{{ schema.type|default('any', true) }}{% endif %}
{%- endmacro %}
{% macro told(message) %}<|start|>{{ message.role }}{% if caller %}{{ caller() }}{% endif %}<|message|>
{{- message.content if message.content is string else message.content|selectattr('type', 'equalto', 'text')
    |map(attribute='text')|join('\\n') }}<|end|>{% endmacro %}
<|start|>system<|message|>Knowledge cutoff: 2024-06
Reasoning: {{ reasoning_effort|default('medium') }}
{%- for tool in tools or [] %}

// {{ tool.function.description }}
type {{ tool.function.name }} = (_: {{ kind_of(tool.function.parameters) }}) => any;
{{ tool|tojson(indent=2) }}
{%- endfor %}<|end|>
{%- for message in messages if message.role != 'system' %}
{%- set first = loop.first %}
{%- call told(message) -%}
    {% if not first %}<|channel|>{{ 'final' if loop is undefined else 'x' }}{% endif %}
{%- endcall %}
{%- else %}nobody speaks{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
STYLES = {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "channels": CHANNELS}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The wéather & <more>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
                },
                "required": ["city"],
            },
        },
    }
]

EXPRESSIONS = """
1 + 2 * 3 - 4 / 2 // 1 % 5 ** 2 | 'a' ~ 1 ~ none ~ [1, 'b'] | 'ab' * 3 ~ [1] * 2 | -3 + +2 | 2 ** 10
2 ** -1 | '%s is %5.2f%%' % ('pi', 3.14159) | '%(a)s' % {'a': 1}
'{:>6}|{!r}|{a}'.format('x', 'y', a=[1]) | '%r' % 'é' | 'a b c'.split() | 'a,b'.split(',', 1)
' x '.strip() ~ '|' | 'xxaxx'.strip('x') | 'a-b'.replace('-', '+') | 'abc'[1:] ~ 'abc'[::-1] ~ 'abc'[-1]
[1, 2, 3][:-1] | (1, 2) + (3,) | 'abc'.startswith(('a', 'b'))
'Ab'.upper() ~ 'Ab'.lower() ~ 'ab cd'.title() ~ 'ab'.capitalize()
'a'.center(5) ~ '7'.zfill(3) ~ 'a'.ljust(3) ~ '|' | 'a\\nb'.splitlines() | 'aXbXc'.partition('X')
'aXbXc'.rsplit('X', 1) | 'abcabc'.rfind('b') | 'b' in 'abc' | ','.join(['a', 'b'])
','.join(['a', 'b']|map('upper')) | 'x'.isdigit() | 'ab'.removeprefix('a') | {'a': 1}.items()|list
{'a': 1, 'b': 2}.keys()|list | {'a': 1}.get('z', 5) | {'a': {'b': 2}}.a.b | {1: 2}[1] | [3, 1, 2]|sort
[3, 1, 2]|sort(reverse=true) | ['b', 'A']|sort | [1, 2]|join('-') | [1, 2]|sum
[[1], [2]]|map('first')|list | messages|map(attribute='role')|join(',')
messages|selectattr('role', 'equalto', 'user')|list|length
messages|rejectattr('role', 'in', ['user'])|map(attribute='content')|list
messages|groupby('role')|map('first')|list | [1, 2, 3, 4]|select('even')|list | [1, 0]|reject|list
['a', 'b', 'a']|unique|list | [1, 2, 3, 4, 5]|batch(2, 0)|list | [1, 2, 3, 4, 5]|slice(2)|list
[1, 2]|reverse|list | 'abc'|reverse | [1, 5, 3]|max ~ [4, 2]|min | [1, 2]|first ~ [1, 2]|last
'a\\nb'|indent(2) ~ 'a\\nb'|indent(2, true) | 'abc def ghi'|truncate(6) | 'a b'|wordcount | '<a>&'|e
'<a>'|escape ~ '<b>' | ('<a>'|safe) + '<b>' | '<b>' + ('<a>'|safe) | ' x '|trim ~ '|'
'x'|center(5) ~ '|' | 'aa'|replace('a', 'b', 1) | {'b': 1, 'a': [1, {'c': none}]}|tojson
{'ü': '<&\\''}|tojson(indent=2) | [1]|tojson(separators=(',', ':'))
{'b': 1, 'a': 2}|tojson(sort_keys=true) | 3.7|int ~ '12'|int ~ 'x'|int(7) ~ 'ff'|int(base=16)
'1.5'|float | 2.567|round(1) | 7|abs ~ -7|abs | 2.5|round(method='ceil')
nothing|default('d') ~ ''|default('e', true) ~ none|default('f') | nothing is defined
messages is iterable | 'a' is string | {} is mapping ~ 3 is number ~ 3 is odd ~ 4 is divisibleby(2)
none is none ~ true is true ~ 1 is sameas(1) | 'A' is upper | 1 is eq(1) ~ 2 is gt(1) ~ 'a' is in('abc')
range(3)|list ~ range(5, 1, -2)|list | dict(a=1, **{'b': 2}) | dict([('a', 1)])
1 == 1.0 and 'a' != 'b' or false | not (1 < 2 <= 2) | 'x' if false else 'y' | ('x' if false) ~ '|'
[1, [2]] == [1, [2]] | namespace(a=1).a | joiner(', ')() ~ '|' | {'a': 1}|items|list
{'b': 1, 'a': 2}|dictsort | 'a'|attr('upper') is defined | 'x'|string ~ 5|string | '%d-%s'|format(1, 'a')
[1, 2]|length ~ 'abc'|count | messages[0]['content'] ~ messages[-1].role | loop is defined
self is defined | 10000000000 * 10000000000 | 1e308 * 10 | 7 // 2 ~ -7 // 2 ~ 7 % 3
'é'|upper|lower|title
'aB'|capitalize ~ nothing|d('x')
1 is integer ~ 1.5 is float ~ true is boolean ~ 'a' is lower ~ [1] is sequence
'upper' is filter ~ 'odd' is test ~ range is callable ~ 'a' is escaped ~ ('a'|safe) is escaped
2 is even ~ 1 is ne(2) ~ 1 is lt(2) ~ 1 is le(1) ~ 2 is ge(3) ~ 3 is greaterthan(2) ~ 3 is lessthan(2)
[1, 2, 3]|select('>', 1)|list | [1, 2, 3]|reject('>=', 2)|list | [1, 2, 3]|select('<', 2)|list
[1, 2, 3]|select('<=', 2)|list | [1, 2]|select('==', 2)|list | [1, 2]|select('!=', 2)|list
1 is equalto(1)
'ß'.casefold() ~ 'aab'.count('a') ~ 'ab'.endswith('b') ~ 'ab'.find('b') ~ 'ab'.index('b') ~ 'abab'.rindex('b')
'a1'.isalnum() ~ 'a'.isalpha() ~ 'é'.isascii() ~ '1'.isdecimal() ~ 'a b'.isidentifier() ~ 'a'.islower()
'½'.isnumeric() ~ '\\n'.isprintable() ~ ' '.isspace() ~ 'Ab'.istitle() ~ 'A'.isupper()
'ab'.removesuffix('b') ~ 'a'.rjust(3) ~ 'aXbX'.rpartition('X') ~ 'aB'.swapcase()
{'a': 1}.copy() ~ {'a': 1}.values()|list ~ [1].copy() ~ [1, 1].count(1) ~ [1, 2].index(2) ~ (1, 2).index(2)
(1, 1).count(1) | 'a.b'.split('.')[0].upper() + 'x'
"""
EXPRESSIONS = [
    part.strip() for line in EXPRESSIONS.splitlines() for part in line.split(" | ") if part.strip()
]

STATEMENTS = [
    "{% for a, b in {'x': 1, 'y': 2}.items() %}{{ loop.index }}{{ a }}{{ b }}{{ loop.revindex }}{% endfor %}",
    "{% for m in messages if m.role == 'x' %}{% else %}none{% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}"
    "{% elif i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1, [2, [3]]] recursive %}{{ i if i is number else loop(i) }},{{ loop.depth }} {% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }}"
    "{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}",
    "{% for i in [3, 4]|map('string') %}{{ loop.length }}{{ loop.last }}{{ i }}{% endfor %}",
    "{% for c in 'añb' %}{{ c }}.{% endfor %}{% for i in nothing %}x{% else %}empty{% endfor %}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x|upper }}{% filter upper %}q{{ x }}{% endfilter %}",
    "{% set ns = namespace(n=0, t='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}"
    "{% set ns.t = ns.t ~ i %}{% endfor %}{{ ns.n }}{{ ns.t }}",
    "{% macro f(a, b='d') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}"
    "{{ f(1) }}{{ f(1, 2, 3, z=4) }}",
    "{% macro f() %}[{{ caller(5) }}]{% endmacro %}{% call(x) f() %}{{ x }}!{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(20) }}",
    "{% block one %}a{% endblock %}{{ self.one() }}{% with a=1, b=2 %}{{ a + b }}{% endwith %}",
    "{% set a, b = (1, 2) %}{{ a }}{{ b }}{% raw %}{{ x }}{% endraw %}{# gone #}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}"
    "{% set j = joiner() %}{{ j() }}{{ j() }}",
    "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}",
    "  {% if true %}  \n    a\n  {%- endif -%}\n b \n{{ 1 }}\n\n",
    "{% if messages|selectattr('role', 'equalto', 'nobody') %}a generator is true{% endif %}",
    "{{ strftime_now('%Y') }}{{ bos_token }}{{ eos_token }}{{ tools }}"
    "{{ documents }}{{ add_generation_prompt }}",
]
