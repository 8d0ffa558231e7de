"""The page in a real browser: it opens without a complaint, and works by keyboard, on a phone and in both themes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pages
import pytest

import waterline
from waterline.bench.workload import Workload
from waterline.report import page
from waterline.report.page import Content, pictures

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'waterline[test]'")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
DESKTOP, PHONE = 1280, 360
NAMES = [f"stage{i // 4}.{i % 4}.conv" for i in range(24)]
CONTRAST = 4.5

# Texts that are seen, with the colours that they have: [contrast, text].
CONTRASTS = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const parse = (c) => { const v = c.match(/[\\d.]+/g).map(Number); return { rgb: v.slice(0, 3), a: v[3] ?? 1 }; };
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.a === 1) return c.rgb;
    if (c.a !== 0) throw new Error(`half a background: ${e.outerHTML}`);
  }
  throw new Error("no background");
};
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement;
  const style = getComputedStyle(e);
  if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("script")) continue;
  const own = e.closest("svg") ? style.fill : style.color;
  const [a, b] = [light(parse(own).rgb), light(behind(e))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), walk.currentNode.data.trim()]);
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(f"there is no {'chromedriver' if binary else 'Chromium'} here: `make browser` installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.set_page_load_timeout(30)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section."""
    path = tmp_path_factory.mktemp("pages") / "page.html"
    drawn = pictures.of(pages.analysis(NAMES))
    path.write_text(page.html(replace(pages.everything(NAMES), pictures=drawn)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, made: Path) -> Any:
    """The browser with the page, as it is at first."""
    return show(browser, made)


def show(browser: Any, path: Path, width: int = DESKTOP, theme: str = "light") -> Any:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < DESKTOP},
    )
    features = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}  # what scrolls is not clicked on
    media = [{"name": name, "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(path.as_uri())
    browser.execute_script("localStorage.clear()")
    browser.get(path.as_uri())
    return browser


def press(browser: Any, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def names(browser: Any) -> list[str]:
    """Of the layers that are seen, from top to bottom."""
    cells = browser.find_elements(By.CSS_SELECTOR, "#layer-table > tbody:not([hidden]) > tr:first-child th span")
    return [cell.text for cell in cells]


def focus(browser: Any, selector: str) -> Any:
    """By script; what follows is done with keys."""
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].focus()", element)
    return element


def requests(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]


# ---- it opens -------------------------------------------------------------------------------------------------------
def test_resnet50_opens_without_a_complaint(browser: Any, tmp_path: Path) -> None:
    analysis = waterline.analyse(Workload.named("resnet50").graph(1), machine="server with AVX-512 and AMX")
    path = tmp_path / "resnet50.html"
    path.write_text(page.html(Content(pages.ENVIRONMENT, analysis, pictures=pictures.of(analysis))), encoding="utf-8")
    for log in ("browser", "performance"):
        browser.get_log(log)
    show(browser, path)
    assert browser.get_log("browser") == []
    assert {url for url in requests(browser) if not url.startswith("data:")} == {path.as_uri()}
    assert names(browser) == [layer.name for layer in analysis.layers]


def test_every_section_opens_without_a_complaint(opened: Any, made: Path) -> None:
    assert opened.get_log("browser") == []
    assert {url for url in requests(opened) if not url.startswith("data:")} <= {made.as_uri()}
    assert opened.title == f"{NAMES[0]} \u2013 Waterline"


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    hostile = ["</script><script>document.title = 'broken'</script>", '"><img src=x onerror="document.title = 1">']
    path.write_text(page.html(pages.everything(hostile)), encoding="utf-8")
    show(browser, path)
    assert browser.title == f"{hostile[0]} \u2013 Waterline"
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert names(browser) == hostile
    assert browser.get_log("browser") == []


def test_without_scripts_everything_is_there(browser: Any, made: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(made.as_uri())
        shown = [row.is_displayed() for row in browser.find_elements(By.CSS_SELECTOR, "tr.details")]
        controls = [each.is_displayed() for each in browser.find_elements(By.CSS_SELECTOR, ".scripted")]
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert shown == [True] * len(NAMES)
    assert controls
    assert not any(controls)


# ---- by keyboard ----------------------------------------------------------------------------------------------------
def test_the_first_tab_skips_to_the_summary(opened: Any) -> None:
    press(opened, Keys.TAB)
    skip = opened.switch_to.active_element
    assert skip.text == "Skip to the summary"
    assert skip.rect["x"] >= 0
    assert opened.execute_script("return getComputedStyle(arguments[0]).outlineStyle", skip) == "solid"
    press(opened, Keys.ENTER)
    assert opened.switch_to.active_element.get_attribute("id") == "main"


def test_sorting(opened: Any) -> None:
    heading = "th:has(> button[data-key=time_ns])"
    for key, expected, order in ((Keys.ENTER, NAMES[::-1], "descending"), (Keys.SPACE, NAMES, "ascending")):
        focus(opened, f"{heading} > button")
        press(opened, key)
        assert names(opened) == expected
        assert opened.find_element(By.CSS_SELECTOR, heading).get_attribute("aria-sort") == order
        assert len(opened.find_elements(By.CSS_SELECTOR, "th[aria-sort]")) == 1
    focus(opened, "button[data-key=algorithm]")
    press(opened, Keys.ENTER)
    assert names(opened)[0] == NAMES[0]
    assert names(opened)[-1] == NAMES[22]
    focus(opened, "button[data-key=index]")
    press(opened, Keys.ENTER)
    assert names(opened) == NAMES


def test_filtering(opened: Any) -> None:
    status = opened.find_element(By.CSS_SELECTOR, "[role=status]")
    assert status.text == "24 layers"
    focus(opened, "#filter")
    press(opened, "STAGE1 3x3")
    assert names(opened) == NAMES[4:8]
    assert status.text.startswith("4 of 24 layers, ")
    press(opened, *[Keys.BACKSPACE] * 20)
    focus(opened, "#algorithm")
    press(opened, "w")
    assert names(opened) == NAMES[1::3]
    focus(opened, "#filter")
    press(opened, "no such layer", Keys.ENTER)
    assert names(opened) == []
    assert status.text == "0 of 24 layers, 0.0 % of the time"
    assert opened.title.endswith("Waterline")  # the form was not sent


def test_details_open_and_close(opened: Any) -> None:
    button, detail = (opened.find_element(By.CSS_SELECTOR, f"#layer-4 {each}") for each in (".expand", ".details"))
    assert (button.get_attribute("aria-expanded"), detail.is_displayed()) == ("false", False)
    focus(opened, "#layer-4 .expand")
    press(opened, Keys.ENTER)
    assert (button.get_attribute("aria-expanded"), detail.is_displayed()) == ("true", True)
    assert f"{NAMES[4]} has one group" in detail.text
    assert detail.get_attribute("id") == button.get_attribute("aria-controls")
    focus(opened, "button[data-key=time_ns]")
    press(opened, Keys.ENTER)
    assert detail.rect["y"] > button.rect["y"] > 0, "it stays behind its layer"
    focus(opened, "#layer-4 .expand")
    press(opened, Keys.SPACE)
    assert (button.get_attribute("aria-expanded"), detail.is_displayed()) == ("false", False)


def test_a_link_shows_its_layer(opened: Any) -> None:
    focus(opened, "#filter")
    press(opened, "nothing")
    link = focus(opened, ".losing a")
    target = link.get_attribute("hash")
    press(opened, Keys.ENTER)
    detail = opened.find_element(By.CSS_SELECTOR, f"{target} .details")
    WebDriverWait(opened, 10).until(lambda _: detail.is_displayed(), "the link leads to what is not shown")
    assert opened.switch_to.active_element.get_attribute("class").startswith("expand")


# ---- themes and sizes -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_chosen_and_remembered(browser: Any, made: Path, theme: str) -> None:
    def background() -> str:
        return browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")

    show(browser, made, theme=theme)
    before = background()
    drawings = [browser.find_element(By.CLASS_NAME, f"on-{each}").is_displayed() for each in ("light", "dark")]
    assert drawings == [theme == "light", theme == "dark"]
    button = focus(browser, "#theme")
    assert button.get_attribute("aria-pressed") == str(theme == "dark").lower()
    press(browser, Keys.ENTER)
    after = background()
    assert after != before
    assert button.get_attribute("aria-pressed") == str(theme == "light").lower()
    browser.get(made.as_uri())
    assert background() == after
    drawings = [browser.find_element(By.CLASS_NAME, f"on-{each}").is_displayed() for each in ("light", "dark")]
    assert drawings == [theme == "dark", theme == "light"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_text_is_readable(browser: Any, made: Path, width: int, theme: str) -> None:
    show(browser, made, width, theme)
    browser.find_element(By.ID, "open-all").click()
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 500
    assert [(ratio, text) for ratio, text in found if ratio < CONTRAST] == []


@pytest.mark.parametrize("width", [PHONE, 768, DESKTOP, 1920])
def test_the_page_does_not_scroll_sideways(browser: Any, made: Path, width: int) -> None:
    show(browser, made, width)
    browser.find_element(By.ID, "open-all").click()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    widest = browser.execute_script(
        "return Math.max(...[...document.querySelectorAll('.detail')].map(e => e.scrollWidth))"
    )
    assert widest <= width, "details are read without scrolling the table"


def test_targets_on_a_phone_are_large_enough(browser: Any, made: Path) -> None:
    show(browser, made, PHONE)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('button, input, select, nav a')].map(e => e.getBoundingClientRect())"
        ".map(r => [r.width, r.height])"
    )
    assert all(min(size) >= 24 for size in sizes)  # WCAG 2.2, 2.5.8


# ---- screen readers -------------------------------------------------------------------------------------------------
def test_everything_that_acts_or_is_looked_at_has_a_name(opened: Any) -> None:
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            seen.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    roles = {"button", "link", "image", "region", "table", "searchbox", "combobox", "navigation", "form", "search"}
    for role in roles & set(seen):
        assert all(name.strip() for name in seen[role]), (role, seen[role])
    assert {"main", "banner", "contentinfo", "navigation", "search", "table", "image", "status"} <= set(seen)
    assert f"Details of {NAMES[3]}" in seen["button"]
    assert sum(name.startswith(("Roofline", "Waterline", "Time")) for name in seen["image"]) >= 4, seen["image"]


def test_paper_has_the_tables_and_no_controls(opened: Any) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        for selector in ("nav", "#theme", "#filter", "#open-all", ".expand"):
            assert not opened.find_element(By.CSS_SELECTOR, selector).is_displayed(), selector
        assert opened.find_element(By.ID, "layer-table").is_displayed()
        assert opened.execute_script("return getComputedStyle(document.documentElement).backgroundColor").endswith(
            "255, 255)"
        )
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
