"""The report in a real browser: headless Chromium, without a network to reach.

Needs Debian's chromium and chromium-driver, or Google's Chrome and chromedriver, and selenium.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from build_onnx import dense_model, gaussian

import wwonnx as ww

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytest.importorskip("selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium, or no chromedriver")

EVIL = '</script><script>window.evil=1</script><img src=x onerror="window.evil=1">'
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1300,900"),
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a hundred layers, and one of two models."""
    folder = tmp_path_factory.mktemp("reports")
    weights = {f"block{i}": gaussian(70, 52 + i % 7, seed=i) for i in range(99)}
    ww.write_report({EVIL: dense_model(weights | {EVIL: gaussian(60, 55)})}, folder / "one.html", rand_replicas=3)
    two = {name: dense_model({"same": gaussian(60, 55, seed=i), name: gaussian(70, 55)}) for i, name in enumerate("ab")}
    ww.write_report(two, folder / "two.html", rand_replicas=3)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get("about:blank")
    driver.get_log("performance")  # what the browser's own first page loads is not ours
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, pages: Path) -> Iterator[Any]:
    """The report of a hundred layers; after each test the console and the network are looked at."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((pages / "one.html").as_uri())
    yield browser
    assert_quiet(browser)


def assert_quiet(browser: Any) -> None:
    """No error on the console, nothing fetched but the page itself, and no script of the model's names."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if url.startswith("file:")]
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    assert browser.execute_script("return window.evil") is None


def names(browser: Any, table: int = 0) -> list[str]:
    script = "return [...document.querySelectorAll('table.layers')[arguments[0]].tBodies[0].rows]"
    return browser.execute_script(
        script + ".filter(row => !row.hidden).map(row => row.querySelector('.open').textContent)", table
    )


def until(browser: Any, script: str, seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := browser.execute_script(script):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {script}")


def opened(browser: Any) -> None:
    """Wait until the open layer is drawn."""
    until(
        browser,
        "return document.getElementById('viewer').open && document.querySelector('#viewer .plot .main-svg') !== null",
    )


def test_it_paints_within_two_seconds(page: Any) -> None:
    paint = until(page, "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    assert paint < 2000
    assert len(names(page)) == 100


def test_nothing_of_a_name_runs(page: Any) -> None:
    # A slash in a name reads as a dot. The model's label, and the tensor's own name, keep it.
    assert "<script>window.evil" in names(page)[99]
    assert EVIL in page.find_element("css selector", "h1").text
    page.execute_script("document.querySelectorAll('button.open')[99].click()")
    opened(page)
    assert "<script>window.evil" in page.find_element("id", "viewer-title").text
    page.find_element("css selector", "summary").click()
    assert EVIL in page.find_element("id", "numbers").text


def test_the_table_sorts(page: Any) -> None:
    heading = "[data-sort=alpha]"
    alphas = "return [...document.querySelectorAll('table.layers tbody .c-alpha')].map(cell => cell.textContent)"
    for sign in (1, -1):
        page.find_element("css selector", heading).click()
        numbers = [float(text) for text in page.execute_script(alphas) if text != "–"]
        assert len(numbers) > 90
        assert numbers == sorted(numbers, reverse=sign < 0)
    page.find_element("css selector", "[data-sort=name]").click()
    found = [name for name in names(page) if name.startswith("block")]
    assert found == [f"block{i}" for i in range(99)]
    assert page.execute_script("return document.querySelectorAll('[aria-sort]').length") == 1


def test_the_table_filters(page: Any) -> None:
    box = page.find_element("css selector", "input[type=search]")
    box.send_keys("block4")
    assert names(page) == ["block4", *(f"block{i}" for i in range(40, 50))]
    assert page.find_element("css selector", "output").text == "11 of 100 layers"
    box.clear()
    flag = page.execute_script("return document.querySelector('[name=flag]').options[2].value")
    page.find_element("css selector", f"[name=flag] option[value='{flag}'], [name=flag] option:nth-child(3)").click()
    script = "return [...document.querySelectorAll('table.layers tbody tr:not([hidden])')].map(row => row.textContent)"
    rows = page.execute_script(script)
    assert len(rows) > 0
    assert all(flag in row for row in rows)


def test_a_click_shows_the_layer(page: Any) -> None:
    page.find_element("css selector", "tr[data-row='3'] .open").click()
    opened(page)
    assert "block3" in page.find_element("id", "viewer-title").text
    traces = page.execute_script("return document.querySelector('#viewer .plot').data.map(trace => trace.name)")
    assert traces[0] == "ESD"
    assert "weights shuffled" in traces
    assert any(name.startswith("MP null") for name in traces)
    assert any(name.startswith("MP fit") for name in traces)
    assert any(name.startswith("power law") for name in traces)
    page.find_element("css selector", "#axes [name=x]").click()
    assert until(page, "return document.querySelector('#viewer .plot').layout.xaxis.type !== 'log'")


def test_a_click_anywhere_on_the_row_and_in_the_flow_shows_it_too(page: Any) -> None:
    page.find_element("css selector", "tr[data-row='5'] .c-alpha").click()
    opened(page)
    assert "block5" in page.find_element("id", "viewer-title").text
    page.find_element("id", "close").click()
    point = page.find_element("css selector", ".flow .point[data-open='0:7']")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    point.click()
    assert "block7" in page.find_element("id", "viewer-title").text


def test_by_keyboard_alone(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = page.find_element("css selector", "tr[data-row='2'] .open")
    page.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    opened(page)
    dialog = page.switch_to.active_element
    assert page.execute_script("return document.getElementById('viewer').contains(document.activeElement)")
    dialog.send_keys(Keys.ARROW_RIGHT)
    assert "block3" in until(page, "return document.getElementById('viewer-title').textContent")
    dialog.send_keys(Keys.ESCAPE)
    assert until(page, "return !document.getElementById('viewer').open")
    assert page.switch_to.active_element == button


@pytest.mark.parametrize("width", [360, 390, 768])
def test_it_fits_a_phone(page: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_script("document.querySelectorAll('button.open')[1].click()")
    opened(page)
    left, right = page.execute_script(
        "const box = document.querySelector('#viewer .plot').getBoundingClientRect(); return [box.left, box.right]"
    )
    assert 0 <= left < right <= width


def test_dark_mode_and_print_have_their_own_colours(page: Any) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"

    def seen(**media: Any) -> str:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        return str(page.execute_script(colour))

    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    light = seen(features=[{"name": "prefers-color-scheme", "value": "light"}])
    try:
        assert light == "rgb(255, 255, 255)"
        assert seen(features=dark) not in (light, "rgba(0, 0, 0, 0)")
        assert seen(media="print", features=dark) == light
        hidden = "return getComputedStyle(document.getElementById('tools')).display"
        assert page.execute_script(hidden) == "none"
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_two_models_open_side_by_side(browser: Any, pages: Path) -> None:
    browser.get((pages / "two.html").as_uri())
    assert (names(browser, 0), names(browser, 1)) == (["same", "a"], ["same", "b"])
    browser.find_element("css selector", "table[data-model='1'] .open").click()
    opened(browser)
    assert [panel.text for panel in browser.find_elements("css selector", "#panels h3")] == ["a", "b"]
    until(browser, "return document.querySelectorAll('#panels .main-svg').length >= 2")
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('#panels .panel')].map(panel => panel.getBoundingClientRect().top)"
    )
    assert boxes[0] == boxes[1]
    browser.find_element("id", "close").click()
    browser.find_element("css selector", "input[type=search]").send_keys("same")
    assert (names(browser, 0), names(browser, 1)) == (["same"], ["same"])
    assert_quiet(browser)
