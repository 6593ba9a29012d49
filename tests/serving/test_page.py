"""The page in headless Chromium, on the server as it is: it shows, keeps and names what the generators draw.

Every visit also asserts that nothing was asked of another origin and that the console has no error.
"""

from __future__ import annotations

import io
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, Route, expect, sync_playwright

from ganlib.inference.images import png, read_facts
from ganlib.inference.latents import LAST_SEED
from ganlib.inference.package import open_package
from ganlib.inference.request import Request, Towards
from ganlib.inference.sample import Generated, Generator
from ganlib.serving.app import Settings, create_app
from ganlib.serving.models import Models
from ganlib.serving.runtime import Runtime
from ganlib.serving.sources import Offer, Repository, Source
from tests.packages import build_package

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
GENERATIONS = "**/v1/images/generations"
IN_SIGHT = 15_000.0  # ms that the page may take to show something
NAMED = {
    "button",
    "checkbox",
    "combobox",
    "dialog",
    "form",
    "image",
    "link",
    "radio",
    "slider",
    "spinbutton",
    "textbox",
}

GIVEN = """
const make = URL.createObjectURL, given = globalThis.given = new Map();
URL.createObjectURL = blob => { const url = make.call(URL, blob); given.set(url, blob); return url; };
"""  # the page's own policy keeps a script from asking for these addresses

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; the page is tested in one")


@contextmanager
def serving(source: Source, settings: Settings | None = None) -> Iterator[str]:
    """Serves in a thread; gives the address."""
    models = Models([source], Runtime("cpu", threads=1, workers=1), linger=0.0)
    config = uvicorn.Config(
        create_app(models, settings or Settings()), "127.0.0.1", 0, log_level="error", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for kind in ("text", "class", "none"):
        build_package(folder / f"tiny-{kind}" / "1", kind, 1 if kind == "none" else 3)
    build_package(folder / "tiny-text" / "2", "text", seed=2)
    return folder


@pytest.fixture(scope="module")
def address(repository: Path) -> Iterator[str]:
    with serving(Repository(repository)) as address:
        yield address


@pytest.fixture(scope="module")
def drawn(repository: Path) -> Callable[..., Generated]:
    """What a served version draws, without the server."""
    generators = {
        (folder.parent.name, folder.name): Generator(open_package(folder), "cpu", threads=1)
        for folder in repository.glob("*/*")
    }
    return lambda name, request, version="1": generators[name, version].generate(request)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=IN_SIGHT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page and what it did. `expected` are the statuses of errors that the test is about, 0 for no answer at all."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.expected: set[int] = set()
        self.asked: list[str] = []
        self.wrong: list[str] = []
        page.add_init_script(GIVEN)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("response", self._look)
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def open(self, **settings: object) -> Page:
        """Opens the page, or a link to settings, and waits until it can be used."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}/#{urlencode(settings)}" if settings else f"{self.address}/")
        expect(self.page.locator("#generate")).to_be_enabled()
        return self.page

    def check(self) -> None:
        own = (f"{self.address}/", f"blob:{self.address}/", "data:image/svg+xml", "about:blank")
        assert [url for url in self.asked if not url.startswith(own)] == []
        assert self.wrong == []

    def _look(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.wrong.append(f"{response.url}: {response.status}")

    def _listen(self, message: ConsoleMessage) -> None:
        unloaded = self.expected and message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not unloaded:
            self.wrong.append(message.text)


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    with visiting(browser, address) as visit:
        yield visit


@contextmanager
def visiting(browser: Browser, address: str, **context: Any) -> Iterator[Visit]:
    opened = browser.new_context(**context)
    opened.set_default_timeout(IN_SIGHT)
    visit = Visit(opened.new_page(), address)
    yield visit
    visit.check()
    opened.close()


def status(page: Page, text: str) -> None:
    expect(page.get_by_role("status").first).to_have_text(text)


def content(page: Page, selector: str) -> bytes:
    """The bytes behind an image, as the page gave them to the browser."""
    read = "async image => Array.from(new Uint8Array(await given.get(image.src).arrayBuffer()))"
    return bytes(page.locator(selector).evaluate(read))


def pixels(file: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def downloaded(page: Page, selector: str) -> tuple[str, Path]:
    with page.expect_download() as download:
        page.click(selector)
    return download.value.suggested_filename, Path(download.value.path())


def test_a_prompt_gives_images_and_files_that_say_how_they_were_made(
    visit: Visit, drawn: Callable[..., Generated]
) -> None:
    page = visit.open()
    page.get_by_label("Model").select_option("tiny-text")
    expect(page.get_by_label("Version")).to_have_value("2")
    expect(page.get_by_label("Version").locator("option").first).to_have_text("2 (current)")
    page.get_by_label("Prompt", exact=True).fill("a zorp rose")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_label("Truncation", exact=True).fill("0.5")
    page.get_by_label("Prompt", exact=True).press("Enter")
    status(page, "8 images, seeds 7 to 14")
    expect(page.locator("#grid li")).to_have_text([f"Seed {seed}" for seed in range(7, 15)])
    expect(page.locator("#remarks")).to_contain_text("zorp")
    assert page.locator("#grid img").nth(2).get_attribute("alt") == "a zorp rose, seed 9"

    page.locator("#grid button").nth(2).click()
    expect(page.get_by_role("dialog")).to_contain_text("Seed 9 (3 of 8)")
    facts = page.locator("#facts").inner_text().split("\n")
    told = dict(zip(facts[::2], facts[1::2], strict=True))
    assert told["Model"] == "tiny-text, version 2"
    assert (told["Prompt"], told["Unknown words"], told["Truncation"]) == ("a zorp rose", "zorp", "0.5")
    name, file = downloaded(page, "#download")
    assert name == "tiny-text-9.png"
    expected = drawn("tiny-text", Request("a zorp rose", seed=7, count=8, truncation=0.5), "2")
    assert file.read_bytes() == png(expected.images[2], expected.facts[2])
    kept = file.rename(file.with_suffix(".png"))
    assert read_facts(kept).seed == 9


def test_a_class_model_offers_its_classes(visit: Visit, drawn: Callable[..., Generated]) -> None:
    page = visit.open()
    page.get_by_label("Model").select_option("tiny-class")
    expect(page.get_by_label("Prompt", exact=True)).to_be_hidden()
    page.get_by_label("Class").select_option("poppy")
    page.get_by_label("Seed", exact=True).fill("3")
    page.get_by_label("How many").fill("2")
    page.get_by_role("button", name="Generate").click()
    status(page, "2 images, seeds 3 to 4")
    expected = drawn("tiny-class", Request(class_name="poppy", seed=3, count=2))
    assert content(page, "#grid li:nth-child(2) img") == png(expected.images[1], expected.facts[1])


def test_many_classes_are_found_by_typing(visit: Visit) -> None:
    def many(route: Route) -> None:
        answer = route.fetch().json()
        for model in answer["data"]:
            model["classes"] = [*model["classes"], *(f"class {k}" for k in range(40))] if model["classes"] else []
        route.fulfill(json=answer)

    visit.page.route("**/v1/models", many)
    page = visit.open()
    page.get_by_label("Model").select_option("tiny-class")
    expect(page.get_by_label("Class")).to_have_attribute("list", "class-names")
    page.get_by_label("Class").fill("ros")
    page.get_by_role("button", name="Generate").click()
    assert page.get_by_label("Class").evaluate("element => element.validity.customError")
    page.get_by_label("Class").fill("rose")
    page.get_by_role("button", name="Generate").click()
    seed = page.get_by_label("Seed", exact=True).input_value()
    expect(page.locator("#grid img").first).to_have_attribute("alt", f"rose, seed {seed}")


def test_an_unconditional_model_asks_for_nothing(visit: Visit, drawn: Callable[..., Generated]) -> None:
    page = visit.open(model="tiny-none@1", seed=5, count=1, truncation=1)
    status(page, "1 image, seed 5")
    expect(page.get_by_label("Prompt", exact=True)).to_be_hidden()
    expect(page.get_by_label("Class")).to_be_hidden()
    expected = drawn("tiny-none", Request(seed=5))
    assert content(page, "#grid img") == png(expected.images[0], expected.facts[0])


def test_the_last_seeds_are_asked_for_to_the_digit(visit: Visit, drawn: Callable[..., Generated]) -> None:
    """2^63 - 1 is no JavaScript number: what is near it would be rounded to 2^63."""
    page = visit.open(model="tiny-none@1", seed=LAST_SEED - 1, count=2, truncation=1)
    status(page, f"2 images, seeds {LAST_SEED - 1} to {LAST_SEED}")
    expected = drawn("tiny-none", Request(seed=LAST_SEED - 1, count=2))
    assert content(page, "#grid li:nth-child(2) img") == png(expected.images[1], expected.facts[1])


def test_a_link_shows_the_same_again_and_the_history_leads_back(visit: Visit) -> None:
    page = visit.open(model="tiny-text@1", prompt="a red rose", seed=7, count=2, truncation=1)
    status(page, "2 images, seeds 7 to 8")
    first, link = content(page, "#grid li:first-child img"), page.url
    page.get_by_label("Seed", exact=True).fill("20")
    page.get_by_label("Version").select_option("2")
    page.get_by_role("button", name="Generate").click()
    status(page, "2 images, seeds 20 to 21")
    assert "seed=20" in page.url and "tiny-text%402" in page.url
    page.go_back()
    status(page, "2 images, seeds 7 to 8")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(page.get_by_label("Version")).to_have_value("1")
    assert content(page, "#grid li:first-child img") == first
    page.go_forward()
    status(page, "2 images, seeds 20 to 21")
    page.goto("about:blank")
    page.goto(link)
    status(page, "2 images, seeds 7 to 8")
    assert content(page, "#grid li:first-child img") == first


def test_versions_draw_different_images(visit: Visit, drawn: Callable[..., Generated]) -> None:
    files = []
    for version in ("1", "2"):
        page = visit.open(model=f"tiny-text@{version}", prompt="a red rose", seed=7, count=1, truncation=1)
        status(page, "1 image, seed 7")
        files.append(content(page, "#grid img"))
        expected = drawn("tiny-text", Request("a red rose", seed=7), version)
        assert files[-1] == png(expected.images[0], expected.facts[0])
    assert files[0] != files[1]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tiny-text@9", "tiny-text@9 is served no more; this is version 2, which draws other images."),
        ("gone@1", "gone@1 is not served here; the link's settings now go to tiny-class."),
    ],
)
def test_a_link_to_what_is_gone_says_so(visit: Visit, model: str, said: str) -> None:
    page = visit.open(model=model, prompt="rose", seed=7, count=1, truncation=1)
    status(page, "1 image, seed 7")
    expect(page.locator("#remarks")).to_contain_text(said)


def test_the_dice_and_generate_draw_new_seeds_unless_one_is_kept(visit: Visit) -> None:
    page = visit.open()
    page.get_by_label("Model").select_option("tiny-none")
    seed, keep = page.get_by_label("Seed", exact=True), page.get_by_label("Keep for the next images")
    drawn = {seed.input_value()}
    page.get_by_role("button", name="New random seed", exact=True).click()
    drawn.add(seed.input_value())
    page.get_by_role("button", name="Generate").click()
    status(page, f"8 images, seeds {seed.input_value()} to {int(seed.input_value()) + 7}")
    assert seed.input_value() in drawn  # what stood in the field is what was drawn
    page.get_by_role("button", name="Generate").click()
    expect(seed).not_to_have_value(max(drawn, key=lambda each: each == seed.input_value()))
    drawn.add(seed.input_value())
    assert len(drawn) == 3 and all(each.isdecimal() for each in drawn)
    seed.fill("5")
    expect(keep).to_be_checked()
    for _ in range(2):
        page.get_by_role("button", name="Generate").click()
        status(page, "8 images, seeds 5 to 12")


def test_the_dialog_by_keyboard_alone(visit: Visit) -> None:
    page = visit.open(model="tiny-none@1", seed=7, count=3, truncation=1)
    status(page, "3 images, seeds 7 to 9")
    page.get_by_role("button", name="Generate").focus()
    for _ in range(2):
        page.keyboard.press("Tab")  # over what is said of the model
    expect(page.locator("#grid button").first).to_be_focused()
    page.keyboard.press("Enter")
    title, dialog = page.locator("#dialog-title"), page.get_by_role("dialog")
    expect(title).to_have_text("Seed 7 (1 of 3)")
    expect(page.get_by_role("link", name="Download")).to_be_focused()
    for key, shown in (("Right", "Seed 8 (2 of 3)"), ("Right", "Seed 9 (3 of 3)"), ("Right", "Seed 7 (1 of 3)")):
        page.keyboard.press(f"Arrow{key}")
        expect(title).to_have_text(shown)
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text("Seed 9 (3 of 3)")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#grid button").nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Use this seed").press("Enter")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("9")
    expect(page.get_by_label("Seed", exact=True)).to_be_focused()


def test_interpolation_ends_at_both_seeds_to_the_bit(visit: Visit, drawn: Callable[..., Generated]) -> None:
    page = visit.open(
        model="tiny-text@1", prompt="a red rose", seed=7, truncation=1, to_seed=9, to_prompt="a blue poppy", position=0
    )
    status(page, "Between seed 7 and seed 9")
    start, end = (drawn("tiny-text", Request(*each)) for each in (("a red rose", None, 7), ("a blue poppy", None, 9)))
    np.testing.assert_array_equal(pixels(content(page, "#stage img")), start.images[0])
    slider, before = page.get_by_label("Position"), page.locator("#stage img").get_attribute("src")
    slider.press("End")
    expect(page.locator("#stage img")).not_to_have_attribute("src", str(before))
    np.testing.assert_array_equal(pixels(content(page, "#stage img")), end.images[0])
    assert "position=1" in page.url
    before = page.locator("#stage img").get_attribute("src")
    slider.fill("0.25")
    expect(page.locator("#stage img")).not_to_have_attribute("src", str(before))
    towards = Towards(9, "a blue poppy", 0.25)
    between = drawn("tiny-text", Request("a red rose", seed=7, towards=towards))
    name, file = downloaded(page, "#stage-download")
    assert name == "tiny-text-7-to-9-0.25.png"
    assert file.read_bytes() == png(between.images[0], between.facts[0])
    expect(slider).to_have_attribute("aria-valuetext", "25 %")

    page.get_by_label("Strip of 8 frames").check()
    status(page, "8 frames from seed 7 to seed 9")
    frames = [pixels(content(page, f"#strip li:nth-child({k}) img")) for k in range(1, 9)]
    np.testing.assert_array_equal(frames[0], start.images[0])
    np.testing.assert_array_equal(frames[7], end.images[0])
    assert len({frame.tobytes() for frame in frames}) == 8
    page.locator("#strip button").nth(1).click()
    name, file = downloaded(page, "#download")
    assert name == "tiny-text-7-to-9-0.1429.png"
    between = drawn("tiny-text", Request("a red rose", seed=7, towards=Towards(9, "a blue poppy", 0.1429)))
    assert file.read_bytes() == png(between.images[0], between.facts[0])


def test_between_two_prompts_the_seed_may_stay(visit: Visit, drawn: Callable[..., Generated]) -> None:
    page = visit.open(model="tiny-text@1", prompt="a red rose", seed=7, truncation=1, to_seed=7, position=0.5)
    page.get_by_label("To prompt").fill("a blue poppy")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#to-end")).to_have_text("a blue poppy, seed 7")
    between = drawn("tiny-text", Request("a red rose", seed=7, towards=Towards(None, "a blue poppy", 0.5)))
    assert content(page, "#stage img") == png(between.images[0], between.facts[0])


def test_the_slider_drops_what_it_has_overtaken(visit: Visit, drawn: Callable[..., Generated]) -> None:
    page = visit.open(model="tiny-none@1", seed=7, truncation=1, to_seed=9, position=0)
    status(page, "Between seed 7 and seed 9")
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        held.append(route)
        if len(held) > 1:
            route.continue_()

    page.route(GENERATIONS, hold_the_first)
    before = page.locator("#stage img").get_attribute("src")
    with page.expect_event("requestfailed"):  # the held one, ended by the page
        page.get_by_label("Position").fill("0.5")
        expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
        for position in ("0.6", "0.7", "0.8"):
            page.wait_for_timeout(40)
            page.get_by_label("Position").fill(position)
    expect(page.locator("#stage img")).not_to_have_attribute("src", str(before))
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    assert '"position":0.8,' in (held[-1].request.post_data or "")
    between = drawn("tiny-none", Request(seed=7, towards=Towards(9, None, 0.8)))
    assert content(page, "#stage img") == png(between.images[0], between.facts[0])


def test_what_the_server_refuses_stands_at_its_field(visit: Visit) -> None:
    visit.expected = {400}
    page = visit.open(model="tiny-text@1", prompt="a red rose", seed=LAST_SEED, count=2, truncation=1)
    seed = page.get_by_label("Seed", exact=True)
    expect(seed).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#seed-wrong")).to_contain_text("expected a whole number from 0 to")
    expect(seed).to_be_focused()
    seed.fill("7")
    expect(page.locator("#seed-wrong")).to_have_count(0)
    page.get_by_label("Prompt", exact=True).fill("...")
    page.get_by_label("Prompt", exact=True).press("Enter")
    expect(page.locator("#prompt-wrong")).to_contain_text("expected at least one word")


def test_a_token_is_asked_for_and_kept_until_the_tab_closes(repository: Path, browser: Browser) -> None:
    with (
        serving(Repository(repository), Settings(token="right")) as address,
        visiting(browser, address) as visit,
    ):
        visit.expected = {401}
        page = visit.page
        page.goto(f"{address}/#" + urlencode({"model": "tiny-none@1", "seed": 7, "count": 1, "truncation": 1}))
        token = page.get_by_label("Access token")
        expect(token).to_be_focused()
        token.fill("wrong")
        token.press("Enter")
        expect(page.get_by_text("The server did not accept this token.")).to_be_visible()
        token.fill("right")
        page.get_by_role("button", name="Use it").click()
        status(page, "1 image, seed 7")
        expect(token).to_be_hidden()
        assert "right" not in page.url
        visit.expected = set()
        page.reload()
        status(page, "1 image, seed 7")


def test_a_full_queue_is_waited_for(visit: Visit) -> None:
    visit.expected = {429}
    full = {
        "error": {"message": "256 images wait and 256 may", "type": "rate_limit_error", "param": None, "code": None}
    }
    times: list[int] = []

    def once(route: Route) -> None:
        times.append(1)
        if len(times) == 1:
            route.fulfill(status=429, headers={"Retry-After": "2"}, json=full)
        else:
            route.continue_()

    visit.page.route(GENERATIONS, once)
    page = visit.open(model="tiny-none@1", seed=7, count=1, truncation=1)
    status(page, "The server is busy. The page asks again by itself")
    expect(page.locator("#clock")).to_have_text(re.compile("^in [12] s$"))
    status(page, "1 image, seed 7")
    assert len(times) == 2

    page.unroute(GENERATIONS)
    page.route(GENERATIONS, lambda route: route.fulfill(status=429, headers={"Retry-After": "60"}, json=full))
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Cancel").press("Enter")
    status(page, "Cancelled. Still shown: 1 image, seed 7")
    expect(page.get_by_role("button", name="Generate")).to_be_focused()
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


class Held:
    """A source that is not through with looking until it may."""

    demanded = False

    def __init__(self, source: Source) -> None:
        self.source = source
        self.may = threading.Event()

    def offers(self) -> list[Offer]:
        self.may.wait(30.0)
        return self.source.offers()


def test_the_page_waits_for_models_that_are_being_loaded(repository: Path, browser: Browser) -> None:
    source = Held(Repository(repository))
    with serving(source) as address, visiting(browser, address) as visit:
        visit.expected = {503}
        try:
            page = visit.page
            page.goto(f"{address}/#" + urlencode({"model": "tiny-none@1", "seed": 7, "count": 1, "truncation": 1}))
            expect(page.get_by_role("status").first).to_contain_text("models are being loaded")
            expect(page.locator("#generate")).to_be_disabled()
            expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        finally:
            source.may.set()
        status(page, "1 image, seed 7")


def test_what_never_comes_can_be_cancelled(visit: Visit) -> None:
    page = visit.open()
    page.get_by_label("Model").select_option("tiny-none")
    page.route(GENERATIONS, lambda route: None)
    ends: tuple[Callable[[], None], ...] = (
        lambda: page.get_by_role("button", name="Cancel").click(),
        lambda: page.keyboard.press("Escape"),
    )
    for end in ends:
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        with page.expect_event("requestfailed") as failed:
            end()
        assert failed.value.failure == "net::ERR_ABORTED"
        status(page, "Cancelled.")
        expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def test_a_lost_network_is_said_and_tried_again(visit: Visit) -> None:
    visit.expected = {0}
    page = visit.open()
    page.get_by_label("Model").select_option("tiny-none")
    page.route(GENERATIONS, lambda route: route.abort())
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("The server cannot be reached.")
    page.unroute(GENERATIONS)
    page.get_by_role("button", name="Try again").click()
    status(page, "8 images, seeds 7 to 14")
    expect(page.locator("#alert")).to_be_hidden()


@pytest.mark.parametrize("answer", [{"status": 500, "body": "Bad gateway of a proxy"}, {"status": 200, "body": "{"}])
def test_an_answer_of_something_else_is_an_error_in_words(visit: Visit, answer: dict[str, Any]) -> None:
    visit.expected = {500}
    page = visit.open()
    page.get_by_label("Model").select_option("tiny-none")
    page.route(GENERATIONS, lambda route: route.fulfill(**answer))
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#alert")).to_contain_text(f"The server answered {answer['status']}")


STATES = {
    "empty": {},
    "text": {"model": "tiny-text@1", "prompt": "a red rose " * 20, "seed": LAST_SEED - 10, "count": 10},
    "class": {"model": "tiny-class@1", "prompt": "rose", "seed": 7, "count": 1},
    "between": {"model": "tiny-text@1", "prompt": "rose", "seed": 7, "to_seed": LAST_SEED, "position": 0.5, "strip": 8},
}


@pytest.mark.parametrize("state", STATES)
def test_a_phone_scrolls_in_one_direction_and_everything_has_a_name(browser: Browser, address: str, state: str) -> None:
    phone = {"width": 360, "height": 640}
    with visiting(browser, address, viewport=phone, color_scheme="dark", reduced_motion="reduce") as visit:
        page = visit.open(**STATES[state])
        if state != "empty":
            expect(page.locator(".tile").filter(visible=True).last).to_be_visible()
            expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
        _in_order(page)
        if state != "empty":
            page.locator(".tile").filter(visible=True).last.click()
            expect(page.get_by_role("dialog")).to_be_visible()
            _in_order(page)


def _in_order(page: Page) -> None:
    sizes = page.evaluate(
        "[document.documentElement, document.querySelector('#dialog')].map(e => [e.scrollWidth, e.clientWidth])"
    )
    assert all(scrolled <= seen for scrolled, seen in sizes)
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in NAMED
    ]
    assert len(named) >= 5
    assert [role for role, name in named if not name.strip()] == []


def test_the_page_is_small_and_runs_nothing_but_its_own_files(visit: Visit) -> None:
    page = visit.open()
    policy = page.request.get(visit.address).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert page.evaluate("document.querySelectorAll('script:not([src]), style, [style], [onclick]').length") == 0
    files = [url for url in visit.asked if "/v1/" not in url and "/v2/" not in url and url.startswith("http")]
    assert len(files) == 7
    assert sum(len(page.request.get(url).body()) for url in files) < 56_000
