"""The page of a report: charts that draw, words that are true, nothing from elsewhere, and a real browser."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from helpers_trace import meta_of, random_rows, write_trace
from locum.analyze import Analysis, analyze
from locum.errors import UsageError
from locum.report import Reported, report_page, write_report
from locum.report.compare import overview
from locum.report.findings import findings
from locum.trace import TraceMeta

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = ("caching", "load", "coverage", "recall", "consistency")
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
Analysed = tuple[Analysis, TraceMeta]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    meta = meta_of(
        3, 8, 2, columns=("next_ids", "domain", "token"), distances=2, predicted=3,
        expert_bytes=(5 << 20,) * 3, slot_bytes=(5 << 20,) * 3,
    )  # fmt: skip
    trace = write_trace(tmp_path_factory.mktemp("report") / "t", meta, random_rows(meta, 1500))
    return analyze(trace), meta


class Scripts(HTMLParser):
    """The scripts of a page as a browser finds them: (attributes, text)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, Any], str]] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self._inside = True
            self.found.append((dict(attributes), ""))

    def handle_data(self, data: str) -> None:
        if self._inside:
            attributes, text = self.found[-1]
            self.found[-1] = attributes, text + data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """Another model: more experts, fewer layers, not all of them alike, and no predictions."""
    meta = replace(meta_of(2, 16, 4), model="other", experts=(16, 12))
    trace = write_trace(tmp_path_factory.mktemp("report") / "u", meta, random_rows(meta, 700))
    return analyze(trace), meta


def reported(analysed: Analysed, name: str = "t", rows: int = 1500) -> Reported:
    found, meta = analysed
    return Reported(
        name=name, rows=rows, meta=meta, tables=found.tables, facts=[("trace", name)], lacking=found.lacking
    )


def page_of(*analysed: Analysed) -> str:
    return report_page([reported(one, f"t{n}") for n, one in enumerate(analysed, 1)])


def specs_of(page: str) -> dict[str, Any]:
    [text] = [text for attributes, text in Scripts(page).found if attributes.get("id") == "specs"]
    found: dict[str, Any] = json.loads(text)
    return found


def picture(spec: dict[str, Any]) -> str:
    drawn: str = vl_convert.vegalite_to_svg({**spec, "$schema": SCHEMA, "width": 600})
    return drawn


def test_every_chart_draws(analysed: Analysed) -> None:
    specs = specs_of(page_of(analysed))
    assert set(specs) == set(NAMES)
    for name, spec in specs.items():
        assert picture(spec).count("<path") > 5, name
    assert picture(specs["load"]).count('aria-roledescription="rect mark"') >= 3 * 8


def test_the_runtime_is_whole(analysed: Analysed) -> None:
    """Nothing in the library ends its script, and nothing else was changed to prevent that."""
    scripts = Scripts(page_of(analysed)).found
    assert len(scripts) == 3
    whole = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert scripts[0][1].replace("<\\/script", "</script") == whole


def test_text_of_a_trace_is_text(analysed: Analysed) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    one = reported(analysed)
    changed = replace(
        one, name=evil, meta=replace(one.meta, model=evil), facts=[(evil, evil)], lacking={evil: evil}
    )
    for page in (report_page([changed]), report_page([changed, one])):
        assert len(Scripts(page).found) == 3
        assert evil not in page


def test_the_figures_are_those_of_the_tables(analysed: Analysed) -> None:
    found, meta = analysed
    spec = specs_of(page_of(analysed))["caching"]
    drawn = {(row["p"], row["n"]): row for row in spec["layer"][1]["data"]["values"]}
    rates = found.tables["caching"]["lru"]["rate"]
    for n, rate in enumerate(rates, 1):
        if rate is not None:
            assert drawn["LRU", n]["h"] == round(rate, 4)
            assert drawn["LRU", n]["x"] == pytest.approx(n * 3 * 5)  # MiB
    sentences = findings(found.tables, meta)
    assert f"hits {rates[1]:.0%} with LRU" in sentences[0]
    assert any("100% of all experts" in sentence for sentence in sentences)


def test_a_trace_that_says_little_makes_a_small_page(analysed: Analysed) -> None:
    one = reported(analysed)
    little = replace(one, tables={"load": one.tables["load"]}, lacking={"srp": "experts"})
    page = report_page([little])
    assert set(specs_of(page)) == {"load"}
    assert "What this trace cannot say" in page
    assert set(specs_of(report_page([little, replace(one, name="u")]))) == {
        "all-load", "1-load", *(f"2-{name}" for name in NAMES)
    }  # fmt: skip


def test_two_models_side_by_side(analysed: Analysed, other: Analysed) -> None:
    """Shares where the shapes differ; what only one of them can say is in its own part."""
    page = page_of(analysed, other)
    specs = specs_of(page)
    shared = {"all-caching", "all-consistency", "all-load"}
    own = {f"1-{name}" for name in NAMES} | {f"2-{name}" for name in NAMES if name != "recall"}
    assert set(specs) == shared | own
    assert page.count("What this trace cannot say") == 2
    for name in shared:
        drawn = picture(specs[name])
        assert drawn.count("line mark container") == 2, name
        values = specs[name]["data"]["values"]
        assert {value["t"] for value in values} == {"t1", "t2"}
    for name in ("all-caching", "all-load"):
        assert all(0 <= value["x"] <= 1 for value in specs[name]["data"]["values"])
    curve = {v["n"]: v for v in specs["all-caching"]["data"]["values"] if v["t"] == "t2"}
    assert curve[16]["x"] == 1
    assert curve[14]["x"] == pytest.approx((14 + 12) / 28, abs=1e-4), "a layer has only 12"
    rates = other[0].tables["caching"]["lru"]["rate"]
    assert curve[7]["y"] == rates[6]
    assert [v["x"] for v in specs["all-load"]["data"]["values"]] == [0, 0.5, 1, 0, 1]


def test_the_table_of_a_comparison(analysed: Analysed, other: Analysed) -> None:
    found = {row[0]: row[1:] for row in overview([reported(analysed, "a"), reported(other, "b", 700)])}
    assert found[""] == ["a", "b"]
    assert found["tokens"] == ["1,500", "700"]
    assert found["experts per layer"] == ["8", "12 to 16"]
    assert found["an expert"] == ["5.00 MiB", "\N{EN DASH}"]
    lru = [one[0].tables["caching"]["lru"]["rate"] for one in (analysed, other)]
    assert found["LRU hits, 25% of the experts in memory"] == [f"{lru[0][1]:.1%}", "\N{EN DASH}"]
    assert found["LRU hits, 50% in memory"][1] == f"{lru[1][6]:.1%}", "7 of 16 and of 12 are half of all"
    assert found["next layer foreseen (recall)"][1] == "\N{EN DASH}"


def test_without_the_chart_library(
    analysed: Analysed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=r"pip install 'locum\[report\]'"):
        write_report(tmp_path / "r.html", [reported(analysed)])
    assert not (tmp_path / "r.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("several", [False, True])
def test_a_browser_draws_every_chart(
    analysed: Analysed, other: Analysed, tmp_path: Path, several: bool
) -> None:
    """A real one, with no network: the document as it is once every script has run."""
    page = page_of(analysed, other) if several else page_of(analysed)
    (tmp_path / "r.html").write_text(page, encoding="utf-8")
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "r.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert shown.count('class="marks"') == (3 + len(NAMES) + len(NAMES) - 1 if several else len(NAMES))
    assert ">this chart could not be drawn" not in shown
    assert shown.count("mark-line") >= 3
    assert shown.count("mark-rect") >= 1
