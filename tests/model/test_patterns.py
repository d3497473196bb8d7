"""Patterns of a config against Python's own `re`, and what would hang it."""

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import UnsupportedError
from locum.model.schemes.patterns import matches

NAMES = (
    "lm_head",
    "model.layers.0.mlp.gate",
    "model.layers.12.mlp.experts.103.gate_proj",
    "model.layers.3.mlp.shared_experts.down_proj",
    "model.layers.3.self_attn.q_proj",
    "language_model.model.layers.7.block_sparse_moe.experts.5.w2",
    "a\n",
    "",
)
PATTERNS = (
    r".*lm_head",
    r"lm_head",
    r".*mlp.gate$",
    r"model.layers.\d+.mlp.experts.\d+.(gate|up|down)_proj",
    r"model\.layers\.\d+\.mlp\.experts\.\d+\.(gate|up|gate_up|down)_proj$",
    r".*experts.*",
    r".*self_attn\.(q|k|v|o)_proj.*",
    r"^model\.layers\.(?:[1-9]|1[0-9])\..*_proj$",
    r"^(?!.*(?:lm_head|gate$)).*",
    r"^(?=.*language_model)(?!.*self_attn).*",
    r".*\bexperts\b.*w[123]$",
    r"(.*\.)?layers\.\d{1,2}\.mlp\.(shared_)?experts\..*",
    r"(?:\w+\.)*gate",
    r"[^.]+\.layers\.[0-9]{2,}\..*?proj",
    r"[\w.]+_(?:proj|w[]1])",
    r"a$",
    r"a\Z",
    r"",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_real_configs(pattern: str) -> None:
    for name in NAMES:
        assert matches(pattern, name) == (re.match(pattern, name) is not None), name


PIECES = (
    "a",
    "b",
    ".",
    r"\d",
    "[ab]",
    "[^a]",
    "(",
    ")",
    "(?:",
    "(?!",
    "(?=",
    "|",
    "*",
    "+",
    "?",
    "{2}",
    "{1,}",
)
PIECES += ("^", "$", r"\b", "*?", "1")


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.text("ab1\n", max_size=6))
def test_whatever_is_matched_is_matched_as_re_does(pattern: str, text: str) -> None:
    try:
        found = matches(pattern, text)
    except UnsupportedError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found == (re.match(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("(a+)+$", True),
        ("(a+)+b", False),
        ("(a|aa)+b", False),
        (".*" * 20 + "b", False),
        ("a?" * 60 + "a" * 60, True),
        ("(?=(a+)+)b", False),
    ],
)
def test_patterns_that_hang_re(pattern: str, found: bool) -> None:
    assert matches(pattern, "a" * 60) is found


REFUSED = (
    "(((ab)*)*)*",
    "(",
    "a)",
    "[",
    "a**",
    "a*+",
    "*",
    r"(a)\1",
    "(?i)a",
    "(?<=a)b",
    "{2}",
    "a{2,1}",
    "^*",
)
REFUSED += ("\\", "(" * 400, "[z-a]", "a" * 1001, "(?!((?:ab)*c)*)")


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_not_matched_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedError, match="config_groups"):
        matches(pattern, "a" * 30)
