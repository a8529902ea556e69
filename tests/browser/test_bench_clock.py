"""The clock of ``bench app`` in a real browser."""

from __future__ import annotations

from playwright.sync_api import Browser

from mhmoe.bench import browser as bench

PAGE = """<div class="st-key-box"><div id="host"></div></div><button>go</button><script>
const root = document.getElementById("host").attachShadow({mode: "open"});
document.querySelector("button").onclick = () => setTimeout(() => {
  root.innerHTML = "<b>one</b><b>two</b>"; window.shown = performance.now(); }, 30);
</script>"""


def test_the_clock_waits_for_what_is_drawn_inside_a_component(browser: Browser):
    inside = {"key": "box", "selector": "b", "count": 2, "text": "one"}
    with bench.visitor(browser) as context:
        page = context.new_page()
        assert bench.opened(page, f"data:text/html,{PAGE}", [{"selector": "button"}]) > 0
        took = bench.timed(page, "click", page.get_by_role("button").click, [inside])
        assert took >= 30
        assert page.evaluate("performance.now() >= window.shown")
        page.evaluate("() => benchClock.idle()")
