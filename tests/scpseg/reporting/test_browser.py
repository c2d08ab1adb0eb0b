"""The page in Chromium: nothing is fetched, nothing fails, tables sort, filter, copy, and an address keeps a view."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scpseg.reporting import build
from scpseg.reporting.memory import Peak

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
BENCHMARKS = ("deepglobe", "dubai", "potsdam", "blu")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a page with invented results."""
    from scpseg.params import SuiteParams
    from tests.scpseg.reporting import conftest

    root = tmp_path_factory.mktemp("page")
    chosen = SuiteParams(benchmarks=BENCHMARKS, baselines=("patch", "downscale", "glnet", "fctl"), seeds=(0, 1))
    conftest.fill_whole(root / "results", chosen, synthetic=False)
    peaks = {
        (b, m): Peak(100.0 + 90 * n, "computed", (("weights", 50.0), ("activations", 50.0 + 90 * n)), 900.0)
        for b in BENCHMARKS
        for n, m in enumerate(("scpseg", *chosen.baselines))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "read_peaks", lambda results, problem: (peaks, {}))
        build.build_report(root / "results", root / "reports", chosen, False)
    return (root / "reports/index.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test where anything is fetched, or said to the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    made, wrong = context.new_page(), []
    made.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
    yield made
    context.close()
    assert wrong == []


def column(page: Any, title: str, table: str = "main-deepglobe") -> list[str]:
    """Shown cells of a column, from top to bottom."""
    found: list[str] = page.evaluate(
        """([table, title]) => {
          const box = document.getElementById(table), heads = [...box.querySelectorAll("thead th")];
          const place = heads.findIndex(head => head.textContent === title && !head.hidden);
          return place < 0 ? [] : [...box.querySelectorAll("tbody tr")].filter(row => !row.hidden)
            .map(row => row.cells[place].textContent.trim());
        }""",
        [table, title],
    )
    return found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_axe_finds_nothing_serious(browser: Any, address: str, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[browser]'")
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    serious = {
        f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
    }
    context.close()
    assert serious == set()


def test_tables_sort_filter_and_hide_and_the_address_keeps_it(page: Any, address: str) -> None:
    page.goto(address)
    box = page.locator("#main-deepglobe")
    before = column(page, "mIoU %")
    box.get_by_role("button", name="mIoU %", exact=True).click()
    down = column(page, "mIoU %")
    assert down == sorted(before, key=lambda cell: -float(cell.split()[0])) and down != []
    box.get_by_role("button", name="mIoU %", exact=True).click()
    assert column(page, "mIoU %") == down[::-1]
    assert column(page, "steps") == []
    box.get_by_text("columns", exact=True).click()
    box.get_by_label("steps", exact=True).check()
    assert column(page, "steps") == ["300"] * 5
    box.get_by_label("accuracy %").uncheck()
    box.get_by_role("searchbox").fill("gl")
    assert column(page, "method") == ["GLNet"]
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    assert column(page, "method") == ["GLNet"] and column(page, "accuracy %") == [] and column(page, "steps") == ["300"]
    page.locator("#main-deepglobe").get_by_role("searchbox").fill("")
    assert column(page, "mIoU %") == down[::-1]
    page.get_by_role("link", name="BLU").click()
    assert "at=blu" in page.url and "main-deepglobe.sort" in page.url
    assert abs(page.evaluate("document.getElementById('blu').getBoundingClientRect().top")) < 200


def test_copies_are_what_is_shown(page: Any, address: str) -> None:
    page.goto(address)
    box = page.locator("#main-deepglobe")
    box.get_by_role("searchbox").fill("glnet")
    made = {}
    for kind in ("LaTeX", "CSV", "Markdown"):
        box.get_by_role("button", name=f"as {kind}").click()
        page.wait_for_function("navigator.clipboard.readText().then(text => text.length > 0)")
        made[kind] = page.evaluate("navigator.clipboard.readText()")
    rows = list(csv.reader(io.StringIO(made["CSV"])))
    assert len(rows) == 2 and rows[1][0] == "GLNet" and "steps" not in rows[0] and rows[0][0] == "method"
    assert made["LaTeX"].startswith("\\begin{tabular}{l") and "mIoU \\%" in made["LaTeX"] and "$\\pm$" in made["LaTeX"]
    lines = made["Markdown"].splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1 and lines[1].startswith("| :-- |")


def test_without_script_everything_is_shown(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    box = page.locator("#main-deepglobe")
    assert box.locator("tbody tr").count() == 5 and box.get_by_text("steps", exact=True).is_visible()
    assert page.locator(".tools").count() == 0
    context.close()


def test_it_prints(page: Any, address: str, tmp_path: Path) -> None:
    page.goto(address)
    page.pdf(path=str(tmp_path / "page.pdf"), format="A4")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator(".tools").first.is_visible()
