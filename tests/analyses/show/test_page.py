"""The report page: self-contained, ordered, escaped, and fit for a phone in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from analyses.show.page import Frame, Table, png, render_page, words
from tests.support.browser import Browser, chromium

TEMPLATE = Path(__file__).with_name("page.html.j2")
ORDER = ["Answer", "How to read this page", "Figures", "Tables", "Cost", "Settings", "Command"]


@pytest.fixture(scope="module")
def picture() -> bytes:
    figure, axes = plt.subplots(figsize=(4.8, 3))
    axes.plot([0, 1])
    drawn = png(figure)
    assert drawn == png(figure)
    plt.close(figure)
    return drawn


@pytest.fixture(scope="module")
def html(picture: bytes) -> str:
    wide = Table(
        "Wide", "Scrolls.", ["", *"abcdefghij"], [["x", *["0.123 (0.1 to 0.2)"] * 10]], [0]
    )
    frame = Frame(
        pictures={"one": picture},
        tables=[wide],
        cost=[wide],
        settings={"template": "*cls*" + "x" * 300},
        command="subkern analyze lora --out " + "y" * 300,
        environment={"torch": "2"},
    )
    said = {"title": "A <title> & more", "caveat": "<script>alert(1)</script>", "alt": 'A "line"'}
    return render_page(TEMPLATE, said, frame)


def test_the_words_of_a_block_are_plain_text() -> None:
    said = {"title": "A <title> & more", "caveat": "a < b", "alt": ""}
    assert words(TEMPLATE, "title", said) == ["A <title> & more"]
    assert words(TEMPLATE, "caveats", said) == ["a < b", "And\N{NO-BREAK SPACE}so on."]
    assert words(TEMPLATE, "no such block", said) == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as options:
        yield options


class Outline(HTMLParser):
    """Start tags of a page, and the text of its headings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("h1", "h2", "h3") and data.strip():
            self.headings.append((self.tags[-1][0], data.strip()))


def test_order_and_outline(html: str) -> None:
    headings = Outline(html).headings
    assert [text for level, text in headings if level == "h2"] == [*ORDER, "Environment"]
    assert [text for level, text in headings if level == "h1"] == ["A <title> & more"]
    assert [text for level, text in headings if level == "h3"] == ["One", "Wide", "Wide"]


def test_nothing_is_fetched_and_nothing_runs(html: str) -> None:
    tags = Outline(html).tags
    links = [value for _, attrs in tags for key in ("src", "href") if (value := attrs.get(key))]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not {"script", "iframe", "form"} & {tag for tag, _ in tags}
    assert not re.search(r"https?://|@import|url\(", html)


def test_what_the_user_gave_is_escaped(html: str) -> None:
    assert "&lt;script&gt;alert(1)" in html
    assert 'alt="A &#34;line&#34;"' in html


def test_accessible(html: str) -> None:
    tags = Outline(html).tags
    assert ("html", {"lang": "en"}) in tags
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")


def test_a_table_has_as_many_cells_as_headings() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 headings"):
        Table("t", "", ["a", "b"], [["1"]])


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG 2."""
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("ink", "ground"),
        ("soft", "ground"),
        ("soft", "raised"),
        ("accent", "mark"),
        ("ink", "warn"),
    ],
)
def test_contrast(html: str, scheme: int, text: str, ground: str) -> None:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in html.split("@media")[:2]
    )
    colors = (light, dark)[scheme]
    one, other = sorted((luminance(colors[text]), luminance(colors[ground])))
    assert (other + 0.05) / (one + 0.05) >= 4.5


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, False)])
def test_in_a_browser(browser: Browser, html: str, tmp_path: Path, width: int, dark: bool) -> None:
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    browser.open(path, width, dark=dark)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.evaluate("document.images.length") == 1
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    scrolls = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth)"
    assert browser.evaluate(scrolls) == [True, True]
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_the_browser_does_see_faults(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<div style='width:900px'>x</div><script>console.error('x')</script>")
    browser.open(path, 390)
    assert len(browser.complaints) == 1
    assert browser.evaluate("document.documentElement.scrollWidth") >= 900
