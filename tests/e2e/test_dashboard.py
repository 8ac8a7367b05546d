"""The dashboard in a real Chromium, with the real daemon and a real gunicorn behind it."""

import os
import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from dashboard_stand import Stand, Wire, chromium
from gunicorn_service import until
from playwright.sync_api import expect

pytestmark = pytest.mark.e2e

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PATIENCE_MS = 120_000
MOST_BYTES = 300_000
DESK, PHONE = (1440, 900), (390, 844)
EXPLAINED = re.compile(r"workers=\d")  # the daemon's words have come
expect.set_options(timeout=PATIENCE_MS)
SIZES = {"desk": DESK, "phone": PHONE}


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """A daemon that has made a plan and some decisions."""
    with Stand(tmp_path_factory.mktemp("stand"), names=("web", "quiet")) as made:
        made.until(lambda pool: pool["plan"] is not None, "a plan")
        made.until(lambda pool: dict(pool["counters"]).get("moves", 0) >= 2, "two moves")
        yield made


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


class Look:
    """A page, and what it asked and complained of."""

    def __init__(self, browser, stand, *, size=DESK, scheme="light"):
        width, height = size
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.stand = stand
        self.complaints, self.asked = [], []
        self.wire = Wire(self.page)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', "
            "(event) => console.error('policy', event.violatedDirective, event.blockedURI))"
        )

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} {message.location}")

    def open(self, pool="web"):
        """Load, and wait until there are live figures, a history and what was learned."""
        self.page.goto(f"{self.stand.url}#{pool}")
        self.live()
        self.page.wait_for_selector("#decisions button")
        self.page.wait_for_selector("#surrogate canvas")
        self.page.wait_for_selector("#schedule canvas")
        return self.page

    def live(self):
        self.page.wait_for_selector("#link[data-state='live']")
        self.page.wait_for_selector("#there:not([hidden])")


@pytest.fixture
def look(browser, stand):
    made = []

    def start(**options):
        made.append(Look(browser, stand, **options))
        return made[-1]

    yield start
    for one in made:
        print(*one.complaints, sep="\n")  # shown when the test fails
        one.context.close()


def sideways(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_it_loads_small_without_a_complaint_and_asks_nobody_else(look):
    seen = look()
    page = seen.open()
    page.wait_for_selector("#sensors tbody tr")
    own = urlsplit(seen.stand.url).netloc
    assert {urlsplit(url).netloc for url in seen.asked if not url.startswith("data:")} == {own}
    assert not seen.complaints
    paint = page.evaluate(
        "performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)[0]"
    )
    print(f"first paint after {paint:.0f} ms, {seen.wire.total_bytes} bytes over the wire")
    assert 10_000 < seen.wire.total_bytes <= MOST_BYTES


def test_its_policy_lets_nothing_in_from_elsewhere(look):
    seen = look()
    answer = seen.page.goto(seen.stand.url)
    rules = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    seen.live()
    refused = seen.page.evaluate(
        "() => { const made = document.createElement('script'); made.textContent = 'x = 1';"
        " document.head.append(made); return typeof x; }"
    )
    assert refused == "undefined", "an inline script does not run"


def test_every_panel_shows_the_pool_as_the_daemon_has_it(look):
    seen = look()
    page = seen.open()
    for title in ("Level", "Load", "Latency", "Jitter", "Errors", "CPU", "Memory", "Power"):
        label = page.get_attribute(f"figure:has(h3:text-is('{title}')) .plot", "aria-label")
        assert " to " in label, title
        assert "between" in label, f"{title}: {label}"
    assert "estimated by a model" in page.inner_text("#tiles")
    assert "±" in page.inner_text("#tiles .tile:last-child")
    assert "below 250 ms" in page.inner_text("#policy")
    assert "Not measured" in page.inner_text("#benefit")
    assert page.locator("#budgets meter").count() >= 2
    signals = {one["signal"] for one in seen.stand.get("/api/v1/status/web")["tick"]["readings"]}
    assert page.locator("#sensors tbody tr").count() >= len(signals)
    assert "best known" in page.inner_text("#surrogate .words")
    assert page.locator("#pools li").count() == 2


@pytest.mark.parametrize("way", ["mark", "list"])
def test_a_decision_is_explained_at_a_click(look, way):
    seen = look()
    page = seen.open()
    place = page.locator(".mark").last if way == "mark" else page.locator("#decisions button").first
    place.click()
    expect(page.locator("#why-text")).to_contain_text(EXPLAINED)
    assert "web" in page.inner_text("#why-title")
    page.keyboard.press("Escape")
    page.wait_for_selector("#why", state="hidden")
    assert not seen.complaints


def test_keys_alone_reach_a_decision_its_neighbours_and_come_back(look):
    page = look().open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the pool"
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('mark')"):
            break
    marks = page.locator(".mark").count()
    for _ in range(marks):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_selector("#why[open]")
    expect(page.locator("#why-text")).to_contain_text(EXPLAINED)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.classList.contains('mark')")
    page.focus("#decisions button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#why[open]")
    first = page.inner_text("#why-title")
    page.focus("#why-older")
    page.keyboard.press("Enter")
    expect(page.locator("#why-title")).not_to_have_text(first)


def test_every_chart_has_its_numbers_as_a_table(look):
    page = look().open()
    for details in page.locator("details.rows").all():
        details.locator("summary").click()
        expect(details.locator("tbody tr").first).to_be_visible()


def test_the_time_range_is_chosen_with_keys_and_a_span_with_the_pointer(look):
    page = look().open()
    page.focus("#range input:checked")
    with page.expect_response(lambda answer: "/history?" in answer.url) as asked:
        page.keyboard.press("ArrowRight")
    query = dict(part.split("=") for part in urlsplit(asked.value.url).query.split("&"))
    assert float(query["to_s"]) - float(query["from_s"]) == pytest.approx(3600, abs=1)
    over = page.locator("#level .u-over").bounding_box()
    y = over["y"] + over["height"] / 2
    page.mouse.move(over["x"] + over["width"] * 0.8, y)
    page.mouse.down()
    page.mouse.move(over["x"] + over["width"] * 0.9, y, steps=5)
    page.mouse.up()
    page.wait_for_selector("#live:not([hidden])")
    page.click("#live")
    page.wait_for_selector("#live", state="hidden")


def test_another_pool_is_a_link_of_its_own(look):
    page = look().open()
    page.click("#pools a:has-text('quiet')")
    page.wait_for_selector("#head h2:text-is('quiet')")
    assert page.url.endswith("#quiet")
    page.go_back()
    page.wait_for_selector("#head h2:text-is('web')")


def test_the_theme_follows_the_system_until_one_is_chosen(look):
    seen = look(scheme="dark")
    page = seen.open()
    page.wait_for_selector("html[data-theme='dark']")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-theme='light']")
    page.click("#theme")
    page.click("#theme")
    page.wait_for_selector("html[data-theme='dark']")
    page.reload()
    page.wait_for_selector("html[data-theme='dark']")
    assert not seen.complaints


@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_no_width_makes_the_page_scroll_sideways(look, width):
    page = look(size=(width, 844)).open()
    assert sideways(page) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_serious(look, size, scheme):
    page = look(size=SIZES[size], scheme=scheme).open()
    found = Axe().run(page).response["violations"]
    page.click("#decisions button")
    page.wait_for_selector("#why[open]")
    found += Axe().run(page).response["violations"]
    told = [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html']}" for one in found]
    print(*told or ["axe finds nothing"], sep="\n")
    assert not [one for one in found if one["impact"] in ("serious", "critical")], told


def test_pictures_for_the_documentation(look, stand):
    """Written when POOLWRIGHT_SCREENSHOTS is set (`make screenshots`); taken in any case."""
    wanted = os.environ.get("POOLWRIGHT_SCREENSHOTS")
    if wanted:
        decided = "/api/v1/pools/web/decisions?limit=200"
        until(lambda: len(stand.get(decided)) >= int(wanted), 600.0, f"{wanted} decisions")
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            page = look(size=(width, height), scheme=scheme).open()
            path = IMAGES / f"dashboard-{size}-{scheme}.png"
            picture = page.screenshot(full_page=size == "desk")
            assert picture.startswith(b"\x89PNG")
            if wanted:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(picture)


def test_a_daemon_that_stands_still_is_told_as_stale(look):
    seen = look()
    page = seen.open()
    seen.stand.daemon.signal(signal.SIGSTOP)
    try:
        page.wait_for_selector("#link[data-state='stale']")
        assert "What is shown is of" in page.inner_text("#lost")
    finally:
        seen.stand.daemon.signal(signal.SIGCONT)
    seen.live()
    assert page.locator("#lost").is_hidden()


def test_it_survives_a_restart_of_the_daemon(look):
    seen = look()
    page = seen.open()
    assert not seen.complaints
    seen.stand.stop()
    page.wait_for_selector("#link[data-state='lost']")
    assert "connection to the daemon is lost" in page.inner_text("#lost")
    style = "getComputedStyle(document.querySelector('.tile b')).fontStyle"
    assert page.evaluate(style) == "italic", "what is old does not look live"
    seen.stand.restart()
    seen.live()
    assert page.locator("#lost").is_hidden()
    page.wait_for_selector("#decisions button")
    errors = [said for said in seen.complaints if "ERR_" not in said]  # nobody was there
    assert not errors
