"""The chat page in a real browser: turns, stop, regenerate, edit, reload, tool calls, memory files."""

import shutil
import time

import pytest
from loopback import PATIENT, http

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver")

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--window-size=900,800")  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    made.set_script_timeout(PATIENT)
    yield made
    made.quit()


class Page:
    """The page, as somebody who types sees it."""

    def __init__(self, browser, server):
        self.browser = browser
        browser.get(server.address)
        browser.execute_script("localStorage.clear()")
        browser.refresh()

    def all(self, selector):
        # In one piece: while a turn runs, the page may replace an element between being found and being read.
        shown = "each => each.checkVisibility() ? each.innerText.trim() : ''"
        return self.browser.execute_script(
            f"return [...document.querySelectorAll(arguments[0])].map({shown})", selector
        )

    def wait(self, condition, seconds=PATIENT):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.browser.find_element("css selector", "body").text
            time.sleep(0.05)

    def say(self, text, *, wait=True):
        from selenium.webdriver.common.keys import Keys

        self.browser.find_element("id", "query").send_keys(text, Keys.ENTER)
        if wait:
            self.idle()

    def idle(self):
        self.wait(lambda: self.browser.find_element("id", "send").is_displayed() and not self.all(".running"))

    def press(self, label):
        self.browser.find_elements("css selector", f"[title='{label}']")[-1].click()


@pytest.fixture
def page(browser, server):
    page = Page(browser, server)
    yield page
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    # What the server refuses shows up here too, and is meant to.
    assert [each for each in errors if "status of" not in each] == []


def test_two_turns_and_a_reload(page):
    page.say("Hello.")
    page.say("Give it a title.")
    assert page.all(".answer") == ["Hello you.", "A chat."]
    assert len(page.all("#strip div")) == 2 and len(page.all("#strip i")) == 8
    page.browser.refresh()
    assert page.all(".answer") == ["Hello you.", "A chat."]
    page.say("Hello.")
    assert page.all(".answer")[-1] == "Hello you."
    page.browser.find_element("id", "new").click()
    assert page.all(".turn") == []


def test_regenerate_and_edit_make_branches(page):
    page.say("Hello.")
    page.press("Regenerate")
    page.idle()
    assert "2/2" in page.all(".tools")[-1]
    page.press("Edit and send again")
    box = page.browser.find_element("css selector", "[aria-label='Edit message']")
    box.clear()
    box.send_keys("Give it a title.")
    page.press("Send edited")
    page.idle()
    assert page.all(".answer") == ["A chat."] and "3/3" in page.all(".tools")[-1]
    page.press("Earlier version")
    assert page.all(".answer") == ["Hello you."] and page.all(".query") == ["Hello."]


def test_stop_writes_nothing(page, held):
    held.hold(chunks=3)
    page.say("Compare.", wait=False)
    page.wait(lambda: page.all(".running"))
    page.browser.find_element("id", "stop").click()
    page.idle()
    assert page.all(".problem") == ["stopped; this turn was not written to memory"]
    held.release()
    page.say("Hello.")
    assert page.all(".answer")[-1] == "Hello you."


def test_thoughts_stand_apart(page):
    page.browser.find_element("css selector", "#mode option:last-child").click()
    page.say("Two and two?")
    assert page.all(".answer") == ["Four."]
    assert page.browser.find_element("css selector", ".think").get_attribute("textContent") == "thoughtadd them"


def test_what_is_too_long_is_said(page):
    page.say("word " * 300)
    assert "one interaction holds 160" in page.all(".problem")[0]


def test_nothing_is_asked_of_anybody_else(page, server):
    page.say("Hello.")
    asked = page.browser.execute_script("return performance.getEntries().map((each) => each.name)")
    assert all(name.startswith((server.address, "data:")) for name in asked if "://" in name or ":" in name)


def test_it_fits_a_phone(page):
    page.browser.set_window_size(500, 700)
    try:
        page.say("Hello.")
        width = page.browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
    finally:
        page.browser.set_window_size(900, 800)


def test_a_memory_can_be_loaded(page, client, server, tmp_path):
    made = client.responses.create(input="Hello.")
    file = tmp_path / "m.safetensors"
    file.write_bytes(http.get(f"{server.url}/responses/{made.id}/memory").read())
    page.browser.find_element("id", "file").send_keys(str(file))
    page.wait(lambda: page.all("#caption") == ["memory loaded from m.safetensors"])
    page.say("Give it a title.")
    page.press("Regenerate")
    page.idle()
    assert page.all(".answer") == ["A chat."]
    assert page.all(".problem") == []
    file.write_bytes(b"nothing")
    page.browser.find_element("id", "file").send_keys(str(file))
    page.wait(lambda: page.all("#caption.problem") == ["the body is no memory file of rxt serve"])
