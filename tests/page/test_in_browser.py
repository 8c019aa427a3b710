"""The page and the widget as a browser shows them: in light and dark, on a phone and on a desk."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from keyvigil.page.render import page, widget
from tests.page.fleets import Fleet, everybody, night

ENDPOINT = "arn:aws:lambda:us-west-2:111111111111:function:keyvigil-render-widget"
FLEETS = dict(everybody())
WIDTHS = {"phone": 390, "desk": 1280}
THEMES = ("light", "dark")
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
"""https://github.com/dequelabs/axe-core/blob/develop/doc/API.md#axe-core-tags"""

type Show = Callable[..., Page]


def page_of(fleet: Fleet, _theme: str) -> str:
    return page(fleet.seen())


def widget_of(fleet: Fleet, theme: str) -> str:
    """What the dashboard would show, in a page that is as empty as can be."""
    ground = "#fff" if theme == "light" else "#0f141a"
    drawn = widget(fleet.seen(), endpoint=ENDPOINT, dark=theme == "dark", notice="A key is being probed.")
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><title>A dashboard</title>"
    hidden = "<style>cwdb-action{display:none}</style>"  # the console takes these for itself
    return f"<!doctype html><html lang=en><head>{head}{hidden}</head><body style='margin:0;background:{ground}'>{drawn}"


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """Opens HTML, and afterwards sees that nothing in it ran, failed or was asked of anybody."""
    said: list[str] = []
    contexts = []

    def open_page(written: str, *, width: int = 1280, theme: Any = "light", allowed: str = "nothing") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        opened = context.new_page()
        opened.on("pageerror", lambda error: said.append(f"error: {error}"))
        opened.on("console", lambda message: said.extend({message.text} if allowed not in message.text else ()))
        opened.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        opened.on("request", lambda request: said.append(f"request: {request.url}"))
        opened.set_content(written)
        return opened

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


every_look = pytest.mark.parametrize(
    ("name", "drawn", "theme", "width"),
    [
        pytest.param(name, drawn, theme, width, id=f"{name}-{drawn.__name__[:-3]}-{theme}-{device}")
        for name in FLEETS
        for drawn in (page_of, widget_of)
        for theme in THEMES
        for device, width in WIDTHS.items()
    ],
)


@every_look
def test_it_can_be_read_by_everybody(show: Show, axe: str, name: str, drawn: Any, theme: str, width: int) -> None:
    """Contrast, names, order of headings and the rest, with every fold opened so that nothing is left out."""
    opened = show(drawn(FLEETS[name], theme), width=width, theme=theme)
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    opened.evaluate(axe)
    found = opened.evaluate("async tags => await axe.run(document, {runOnly: tags})", STANDARDS)
    # The dashboard around the widget has the page's landmarks and its first heading.
    not_ours = {"landmark-one-main", "region", "page-has-heading-one"} if drawn is widget_of else set()

    problems = [
        f"{each['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
        if each["id"] not in not_ours
    ]
    assert problems == []
    assert len(found["passes"]) > 10


@every_look
def test_nothing_sticks_out_to_the_side(show: Show, name: str, drawn: Any, theme: str, width: int) -> None:
    opened = show(drawn(FLEETS[name], theme), width=width, theme=theme)
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")

    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_is_dark_where_the_machine_is(show: Show) -> None:
    grounds = [
        show(page(night().seen()), theme=theme).evaluate("getComputedStyle(document.body).backgroundColor")
        for theme in THEMES
    ]

    assert grounds == ["rgb(244, 245, 247)", "rgb(16, 21, 28)"]


def test_everything_that_folds_can_be_reached_and_opened_with_the_keyboard(show: Show) -> None:
    opened = show(page(night().seen()))
    folds = opened.locator("summary").count()
    reached = 0
    for _ in range(folds):
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", (
            "it shows where one is"
        )
        opened.keyboard.press("Enter")
        reached += 1

    assert reached > 8
    assert opened.locator("details[open]").count() == folds


def test_every_button_of_the_widget_can_be_reached_with_the_keyboard(show: Show) -> None:
    fleet = night()
    opened = show(widget_of(fleet, "light"))
    focused = "[...document.querySelectorAll('a.btn')].indexOf(document.activeElement)"
    reached: set[int] = set()
    for _ in range(40):  # after the last element the first has its turn again
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate(focused))

    assert reached - {-1} == set(range(len(fleet.seen().troubled)))


def test_what_matters_is_seen_without_scrolling(show: Show) -> None:
    for width in WIDTHS.values():
        opened = show(page(night().seen()), width=width)
        for text in ("2 keys cannot be used", "2 clusters are locked", "Open incidents (3)"):
            place = opened.get_by_text(text, exact=True).bounding_box()
            assert place is not None
            assert place["y"] + place["height"] < 900, text


def test_scripts_do_not_run_even_if_one_got_in(show: Show) -> None:
    """The page's own policy: the second lock on a door that the escaping keeps shut."""
    written = page(night().seen()).replace("</header>", "</header><script>document.title = 'taken'</script>")
    opened = show(written, allowed="violates the following Content Security Policy directive 'default-src 'none''")

    assert "KeyVigil" in opened.title()
