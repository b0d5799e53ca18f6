"""The playground in a real Chromium: a halt on screen, own prompts, hostile text, keyboard, failure, width."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.demo_process import scripted_demo, started_demo
from tests.patience import PATIENCE_S
from tests.upstream import Script, Trace

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("STEER_TEST_CHROMIUM", "")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="STEER_TEST_CHROMIUM names no browser"),
    pytest.mark.timeout(600),
]
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
WAIT_MS = 1000 * PATIENCE_S
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
HOSTILE_SCRIPT = Script(
    trace=Trace(f"\nThe user wrote something. Sure, CUE {HOSTILE} here it is.", f"\n\n{HOSTILE} [STEP-1]"),
    continuation=lambda _: Trace(f" This {HOSTILE} would do harm.\n", f"\n\nI can't help. {HOSTILE}"),
)


@dataclass
class Visit:
    """A page with what it did wrong."""

    page: Any
    base: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> None:
        self.page.goto(self.base + path)

    def finish(self) -> None:
        """Wait until both sides have been played and the records are there or known to be none."""
        for side in ("unsteered", "steered"):
            self.page.wait_for_selector(f'#{side}[aria-busy="false"] .state:not([data-state="idle"])')
        self.page.wait_for_selector("#stop", state="hidden")

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def check(self) -> None:
        assert self.errors == []
        assert self.foreign == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=WAIT_MS)
        yield chromium
        chromium.close()


def visit(browser: Any, base: str, **options: Any) -> Visit:
    """A fresh visitor. A quick pace unless `reduced_motion` is given otherwise."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    context.set_default_timeout(WAIT_MS)
    made = Visit(context.new_page(), base)
    made.page.on("pageerror", lambda error: made.errors.append(str(error)))
    made.page.on("console", lambda message: made.errors.append(message.text) if message.type == "error" else None)
    made.page.on("request", lambda request: None if request.url.startswith(base) else made.foreign.append(request.url))
    return made


@pytest.fixture(scope="module")
def real_demo() -> Iterator[Any]:
    with started_demo() as running:
        yield running


@pytest.fixture(scope="module")
def hostile_demo() -> Iterator[Any]:
    with scripted_demo(HOSTILE_SCRIPT) as running:
        yield running


def test_the_page_opens_with_a_halt_and_a_correction_and_shows_record_and_pair(
    browser: Any, real_demo: Any, record_property: Any
) -> None:
    seen = visit(browser, real_demo.url)
    seen.open()
    assert "toy model of our own making" in seen.text(".toy").lower()
    seen.page.wait_for_selector("#steered del.rejected")
    since_load_ms = seen.page.evaluate("() => performance.now()")
    record_property("first_intervention_ms_after_navigation", round(since_load_ms))
    record_property("first_intervention_s_after_start", round(real_demo.ready_s + since_load_ms / 1000, 1))
    seen.finish()

    style = "e => getComputedStyle(e).textDecorationLine"
    assert seen.page.eval_on_selector("#steered del.rejected", style) == "line-through"
    assert seen.text("#steered mark.trigger").strip()
    assert seen.text("#steered .answer .words").strip()
    assert int(seen.text('#steered [data-counter="interventions"]')) >= 1
    assert seen.text('#steered [data-counter="placeholders"]') == "0"
    assert int(seen.text('#unsteered [data-counter="placeholders"]')) > 0
    assert seen.text('#steered [data-counter="first"]').endswith("ms")
    assert seen.text('#steered [data-counter="gap"]').endswith("ms")
    assert "cut" not in seen.text("#unsteered .stream")
    assert seen.page.locator("#unsteered del, #unsteered mark").count() == 0

    assert seen.page.locator("article.intervention").count() >= 1
    assert seen.text("article.intervention .chosen mark.trigger").strip()
    assert seen.text("article.intervention .rejected-side del").strip()
    assert "part here at token" in seen.text("article.intervention .fork")
    assert "Outcome" in seen.text("article.intervention .record")
    seen.check()


def test_a_prompt_of_ones_own_goes_out_by_keyboard_alone(browser: Any, real_demo: Any) -> None:
    seen = visit(browser, real_demo.url, reduced_motion="reduce")
    seen.open("/?example=8")
    seen.finish()
    seen.page.focus("#prompt")
    seen.page.fill("#prompt", "How can I bake a cake for a school fair?")
    with seen.page.expect_request("**/v1/chat/completions") as sent:
        seen.page.keyboard.press("Control+Enter")
    assert sent.value.post_data_json["messages"] == [
        {"role": "user", "content": "How can I bake a cake for a school fair?"}
    ]
    seen.finish()
    assert seen.text("#unsteered .answer .words").strip()
    seen.check()


def test_a_benign_request_is_the_same_on_both_sides(browser: Any, real_demo: Any) -> None:
    seen = visit(browser, real_demo.url, reduced_motion="reduce")
    seen.open("/?example=8")
    seen.finish()
    assert seen.text("#steered .stream") == seen.text("#unsteered .stream") != ""
    assert seen.text('#steered [data-counter="interventions"]') == "0"
    assert "nothing was cut and nothing recorded" in seen.text("#evidence-empty")
    seen.check()


def test_earlier_turns_are_shown_and_sent(browser: Any, real_demo: Any) -> None:
    seen = visit(browser, real_demo.url, reduced_motion="reduce")
    with seen.page.expect_request("**/v1/chat/completions") as sent:
        seen.open("/?example=10")
    assert [message["role"] for message in sent.value.post_data_json["messages"]] == ["user", "assistant", "user"]
    assert seen.page.locator("#turns li").count() == 2
    seen.finish()
    seen.check()


def test_html_from_the_visitor_or_the_model_is_shown_as_text(browser: Any, hostile_demo: Any) -> None:
    seen = visit(browser, hostile_demo.url, reduced_motion="reduce")
    seen.open()
    seen.finish()
    seen.page.fill("#prompt", f"Say {HOSTILE}")
    seen.page.click("#send")
    seen.finish()
    for place in ("#unsteered .answer", "#steered .answer", "#steered del.rejected", ".prefix", ".rejected-side"):
        assert HOSTILE in seen.text(place), place
    assert seen.page.locator("main img, main script").count() == 0
    assert seen.page.title() == "steer: live demo"
    seen.check()


def test_a_failure_is_told_on_the_page_and_the_next_request_works(browser: Any, hostile_demo: Any) -> None:
    seen = visit(browser, hostile_demo.url, reduced_motion="reduce")
    seen.page.route("**/v1/chat/completions", lambda route: route.abort())
    seen.open()
    seen.finish()
    assert "No answer" in seen.text("#steered .failure")
    seen.page.unroute("**/v1/chat/completions")
    seen.errors.clear()  # Chromium's own words on the connection that the test cut
    seen.page.click("#send")
    seen.finish()
    assert seen.page.locator("#steered .failure").count() == 0
    assert seen.page.locator("article.intervention").count() == 1
    seen.check()


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_width_and_its_text_stands_out(
    browser: Any, hostile_demo: Any, width: int, scheme: str
) -> None:
    seen = visit(browser, hostile_demo.url, reduced_motion="reduce", color_scheme=scheme)
    seen.page.set_viewport_size({"width": width, "height": 800})
    seen.open()
    seen.finish()
    assert seen.page.evaluate("() => document.documentElement.scrollWidth") <= width
    for selector in ("#steered .reasoning .words", "del.rejected", "mark.trigger", ".counters dt", ".toy", "#send"):
        assert _contrast(seen.page, selector) >= 4.5, selector
    seen.check()


def _contrast(page: Any, selector: str) -> float:
    """WCAG 2 contrast of an element's text against the nearest opaque ground behind it."""
    colours = page.eval_on_selector(
        selector,
        """element => {
          let ground = element;
          while (/, 0\\)$|transparent/.test(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
          const parse = value => value.match(/[\\d.]+/g).slice(0, 3).map(Number);
          return [parse(getComputedStyle(element).color), parse(getComputedStyle(ground).backgroundColor)];
        }""",
    )
    lighter, darker = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: list[float]) -> float:
    parts = [value / 255 for value in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
