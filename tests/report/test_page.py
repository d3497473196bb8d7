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
from locum.report import report_page, write_report
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


def page_of(analysed: Analysed) -> str:
    found, meta = analysed
    return report_page(found.tables, meta, [("trace", "t")], found.lacking)


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
    found, meta = analysed
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    page = report_page(found.tables, replace(meta, model=evil), [(evil, evil)], {evil: evil})
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
    found, meta = analysed
    page = report_page({"load": found.tables["load"]}, meta, [], {"srp": "experts"})
    assert set(specs_of(page)) == {"load"}
    assert "What this trace cannot say" in page


def test_without_the_chart_library(
    analysed: Analysed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, meta = analysed
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=r"pip install 'locum\[report\]'"):
        write_report(tmp_path / "r.html", found.tables, meta, [], {})
    assert not (tmp_path / "r.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_draws_every_chart(analysed: Analysed, tmp_path: Path) -> None:
    """A real one, with no network: the document as it is once every script has run."""
    (tmp_path / "r.html").write_text(page_of(analysed), encoding="utf-8")
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "r.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert shown.count('class="marks"') == len(NAMES)
    assert ">this chart could not be drawn" not in shown
    assert shown.count("mark-line") >= 3
    assert shown.count("mark-rect") >= 1
