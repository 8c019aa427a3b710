"""The picture of the fleet: what it says first, what it says at all, and that no name breaks out of it."""

import json
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any, override

import pytest

from keyvigil.page.html import LONGEST_TEXT, readable, shown, tag, whole
from keyvigil.page.overview import Level, Overview, ago, counted, headline
from keyvigil.page.render import CHECK_NOW, ENTRIES_OPEN, WIDGET_BOUNDS, page, widget
from tests.page import fleets
from tests.page.fleets import HOSTILE, NOW, Fleet, at, disabled, healthy, hostile, incident, key, night

ENDPOINT = "arn:aws:lambda:us-west-2:111111111111:function:keyvigil-render-widget"
LAMBDAS_MOST = 6 * 1024 * 1024
"""https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""


class Document(HTMLParser):
    """What a reader of the HTML finds: its elements in order, with the names of their attributes, and its texts."""

    def __init__(self, written: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.others: list[str] = []
        self._open: list[str] = []
        self.actions: list[dict[str, Any]] = []
        self.feed(written)
        self.close()
        assert self._open == [], "every element is closed"

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag != "meta":
            self._open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "cwdb-action":
            self.actions.append(json.loads(data))
        elif not self._open or self._open[-1] != "style":
            self.texts.append(data)

    @override
    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    @override
    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def of_page(fleet: Fleet) -> Document:
    return Document(page(fleet.seen()))


def of_widget(fleet: Fleet, *, dark: bool = False) -> Document:
    return Document(widget(fleet.seen(), endpoint=ENDPOINT, dark=dark))


# --- hostile names ----------------------------------------------------------------------------------------------

PLAIN = "plain"
hostile_names = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


@hostile_names
@pytest.mark.parametrize("drawn", [of_page, of_widget])
def test_no_name_adds_an_element_an_attribute_or_a_comment(drawn: Any, text: str) -> None:
    evil, plain = drawn(hostile(text)), drawn(hostile(PLAIN))

    assert evil.elements == plain.elements
    assert evil.others == plain.others == []
    names = {name for _, name, _ in evil.attributes}
    assert not [name for name in names if name.startswith("on") or name in {"src", "href", "srcdoc", "formaction"}]


@hostile_names
def test_a_name_is_in_no_attribute_and_no_style(text: str) -> None:
    """Where it could only be shown by mistake: classes, styles, titles, the addresses and questions of buttons."""
    evil = {each for each in of_widget(hostile(text)).attributes if each[1] != "datetime"}
    plain = {each for each in of_widget(hostile(PLAIN)).attributes if each[1] != "datetime"}

    assert evil == plain


@hostile_names
@pytest.mark.parametrize("drawn", [page, lambda seen: widget(seen, endpoint=ENDPOINT, dark=True)])
def test_nothing_that_cannot_be_seen_is_written(drawn: Any, text: str) -> None:
    written = drawn(hostile(text).seen())

    assert written == readable(written, most=None, lines=True)
    assert written.encode("utf-8")


@hostile_names
def test_the_button_sends_back_exactly_the_ids_that_it_was_made_of(text: str) -> None:
    drawn = widget(hostile(text).seen(), endpoint=ENDPOINT, dark=False)

    for sent in Document(drawn).actions:
        assert sent == {"action": CHECK_NOW, "project_id": text, "key_id": text}
    # And if the console takes what stands between the tags as it stands, without reading it as HTML:
    raw = drawn.partition("</cwdb-action>")[0].rpartition(">")[2]
    assert json.loads(raw) == {"action": CHECK_NOW, "project_id": text, "key_id": text}


@hostile_names
def test_a_name_is_shown_as_it_is(text: str) -> None:
    drawn = of_page(hostile(text))

    assert readable(text) in drawn.texts
    assert readable(text, most=None, lines=True) in drawn.texts, "a command is whole"


def test_the_stack_the_notice_and_the_endpoint_are_escaped_too() -> None:
    evil = HOSTILE["attribute"] + HOSTILE["script"]
    drawn = Document(widget(night().seen(stack=evil), endpoint=evil, dark=False, notice=evil))

    assert ("cwdb-action", "endpoint", evil) in drawn.attributes
    assert not {"script", "img"} & {name for name, _ in drawn.elements}
    assert drawn.texts.count(evil) == 2
    assert Document(page(healthy(0).seen(stack=evil))).texts.count(evil) == 1


def test_what_cannot_be_seen_is_shown_by_its_number() -> None:
    assert readable("a\u202eb\x00\u200b\ud800") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+200B⟩⟨U+D800⟩"
    assert readable("a\nb\tc") == "a⟨U+000A⟩b⟨U+0009⟩c"
    assert whole("a\nb\tc\r") == "a\nb\tc⟨U+000D⟩"
    assert readable("名前 é 🔑") == "名前 é 🔑"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert readable("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert readable("x" * 1_500) == "x" * LONGEST_TEXT + "… (1,100 more characters)"
    assert len(readable("\x00" * 20_000)) < LONGEST_TEXT + 40, "cut by what is written, not by what was given"
    assert whole("x" * 20_000) == "x" * 20_000


def test_text_is_escaped_wherever_it_is_put() -> None:
    assert shown('<a href="x">&\'') == "&lt;a href=&quot;x&quot;&gt;&amp;&#x27;"
    assert tag("p", "<b>", class_='"') == '<p class="&quot;">&lt;b&gt;</p>'
    assert tag("p", tag("b", 1), None, aria_label=None) == "<p><b>1</b></p>"


# --- what is said first -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fleet", "level", "title"),
    [
        pytest.param(healthy(0), Level.EMPTY, "No key is registered yet", id="none"),
        pytest.param(healthy(1), Level.FINE, "The one key under watch works", id="one"),
        pytest.param(healthy(500), Level.FINE, "All 500 keys work", id="all"),
        pytest.param(night(), Level.ALARM, "2 keys cannot be used", id="night"),
        pytest.param(
            Fleet([("a", key(1, stale=True))]), Level.WARNING, "1 key was not probed for too long", id="stale"
        ),
        pytest.param(
            Fleet([("a", key(1, unknown_since=at(minutes=1)))]),
            Level.WARNING,
            "Nothing is known about 1 key",
            id="unknown",
        ),
        pytest.param(
            Fleet([("a", key(1, status="SUSPECT"))]),
            Level.WARNING,
            "1 key failed and is being confirmed",
            id="suspect",
        ),
        pytest.param(
            Fleet([("a", key(1))], clusters={"UNLOCK_FAILED": 2}),
            Level.ALARM,
            "2 clusters did not lock or unlock",
            id="not-unlocked",
        ),
        pytest.param(
            Fleet(healthy(2).keys, clusters={"LOCKED": 1}), Level.ALARM, "1 cluster is locked", id="still-locked"
        ),
    ],
)
def test_the_worst_comes_first(fleet: Fleet, level: Level, title: str) -> None:
    said = headline(fleet.seen())

    assert (said.level, said.title) == (level, title)
    assert title in of_page(fleet).texts


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("sweep", [None, {"at": at(minutes=14), "keys_due": 0, "keys_sent": 0}])
def test_nothing_is_called_fine_when_nobody_looks(number: int, sweep: Any) -> None:
    said = headline(Fleet(healthy(number).keys, changed={"last_sweep": sweep}).seen())

    assert said.level is Level.ALARM
    assert "Keys are not being checked" in said.title


def test_a_canary_that_is_unwell_and_a_brake_are_worth_a_look() -> None:
    canary = {"region": "us-west-2", "partial": False, "outcome": "UNKNOWN", "probed_at": None}
    brake = {"region": "us-west-2", "cause": None, "project_id": None, "since": at(minutes=3), "reason": "drill"}
    said = headline(Fleet(healthy(3).keys, changed={"canaries": [canary], "brake": [brake]}).seen())

    assert said.level is Level.WARNING
    assert [said.title, *said.points] == [
        "The brake is engaged: it holds lockouts back",
        "No canary vouches for KeyVigil in us-west-2: denials there count as unknown",
    ]


# --- what is said at all ----------------------------------------------------------------------------------------


def test_an_incident_says_who_did_it_what_mends_it_and_what_happened() -> None:
    drawn = of_page(night())

    assert "arn:aws:sts::222222222222:assumed-role/Admin/jo called DisableKey" in drawn.texts
    assert "Enable the key again." in drawn.texts
    assert [each for each in drawn.texts if each.startswith("aws kms enable-key --region ")]
    assert "2 of 2 clusters are locked" in drawn.texts
    assert f"{1} earlier entry" in drawn.texts, f"{ENTRIES_OPEN} entries are unfolded"


def test_what_waits_for_a_person_comes_first_with_the_commands_that_decide() -> None:
    drawn = of_page(night())
    titles = [text for text in drawn.texts if text.endswith((" HELD", " LOCKED", " CONFIRMING"))]

    assert titles[0] == "! HELD"
    decide = [text for text in drawn.texts if text.startswith("keyvigil incident ") and " acme-staging " in text]
    assert [text.split()[2] for text in decide] == ["approve", "hold", "dismiss"], "each by itself, to be pasted alone"
    assert "a person's approval, which the project asks for" in drawn.texts


def test_what_is_locked_cannot_be_held_any_more() -> None:
    broken = disabled(1)
    drawn = of_page(Fleet([("acme", broken)], [incident("acme", broken)]))

    assert [text.split()[2] for text in drawn.texts if text.startswith("keyvigil incident ")] == ["dismiss"]


def test_commands_name_another_stack_and_are_quoted() -> None:
    broken = disabled(1, open_incident_id="a'b")
    fleet = Fleet([("acme", broken)], [incident("acme", broken)])
    drawn = Document(page(fleet.seen(stack="other")))

    assert """keyvigil incident dismiss acme 'a'"'"'b' --stack other --reason '…'""" in drawn.texts


def test_the_page_shows_every_key_and_the_widget_those_that_need_a_look() -> None:
    fleet = night()
    on_page, on_widget = of_page(fleet), of_widget(fleet)

    names = {each.name for each in fleet.seen().keys}
    assert names <= set(on_page.texts)
    assert {each.name for each in fleet.seen().troubled} <= set(on_widget.texts)
    assert len(names & set(on_widget.texts)) == len(fleet.seen().troubled) == 5


def test_each_key_that_needs_a_look_can_be_probed_from_the_widget_after_a_question() -> None:
    fleet = night()
    drawn = of_widget(fleet)

    assert [(each["project_id"], each["key_id"]) for each in drawn.actions] == [
        (each.project_id, each.key_id) for each in fleet.seen().troubled
    ]
    attributes = [(name, value) for tag_name, name, value in drawn.attributes if tag_name == "cwdb-action"]
    assert attributes.count(("endpoint", ENDPOINT)) == 5
    assert attributes.count(("action", "call")) == 5
    questions = {value for name, value in attributes if name == "confirmation"}
    assert len(questions) == 1
    assert "Probe this key now?" in str(questions)


def test_the_page_acts_on_nothing_and_loads_nothing() -> None:
    written = page(night().seen())
    elements = {name for name, _ in Document(written).elements}

    assert not elements & {"script", "link", "img", "iframe", "form", "a", "cwdb-action"}
    assert "default-src 'none'" in written
    assert "url(" not in written
    assert "@import" not in written


def test_the_widget_has_nothing_that_cloudwatch_takes_out() -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_security.html"""
    drawn = of_widget(night())

    assert not {name for name, _ in drawn.elements} & {"script", "iframe", "use", "html", "body", "meta"}


def test_the_widget_follows_the_dashboards_theme() -> None:
    assert ("div", "class", "kv dark") in of_widget(healthy(1), dark=True).attributes
    assert ("div", "class", "kv light") in of_widget(healthy(1), dark=False).attributes


@pytest.mark.parametrize(
    "fleet", [each for _, each in fleets.everybody()], ids=[name for name, _ in fleets.everybody()]
)
def test_the_counts_are_those_of_the_fleet(fleet: Fleet) -> None:
    drawn = of_page(fleet)
    total = (
        len(fleet.keys) if all(each["status"] in {"HEALTHY", "UNHEALTHY", "SUSPECT"} for _, each in fleet.keys) else 1
    )

    assert counted(total, "key", "keys") + " by status" in drawn.texts


def test_what_is_left_out_is_counted() -> None:
    keys = [("acme", disabled(number)) for number in range(130)]
    incidents = [incident(project, each) for project, each in keys]
    seen = Fleet(keys, incidents).seen()
    drawn = Document(widget(replace(seen, left_out=7), endpoint=ENDPOINT, dark=False))

    assert "Open incidents (130)" in drawn.texts
    assert "120 more are open and not shown here: keyvigil incident list" in drawn.texts
    assert "Keys that need a look (137)" in drawn.texts
    assert "37 more are not shown here: keyvigil fleet" in drawn.texts
    assert len(drawn.actions) == WIDGET_BOUNDS.troubled_keys


def test_a_long_timeline_says_that_it_goes_on() -> None:
    broken = disabled(1)
    entries = [
        {"at": at(seconds=number), "what": "cluster.locked", "detail": f"c{number}"} for number in range(50, 0, -1)
    ]
    fleet = Fleet([("acme", broken)], [incident("acme", broken, timeline=entries)])

    assert "12 earlier entries, and more before them" in of_widget(fleet).texts
    assert "42 earlier entries" in of_page(fleet).texts


WIDEST = "\U0001f511"


def test_the_largest_widget_fits_into_a_functions_answer() -> None:
    """Everything at its bound, in characters that JSON writes with twelve."""
    text = WIDEST * 2_000
    broken = disabled(1, alias_arn=f"arn:aws:kms:us-west-2:2:alias/{'a' * 250}", open_incident_id="01" + "J" * 24)
    mending = {"summary": text, "commands": [WIDEST * 1_000] * 3}
    broken["verdict"] |= {"message": text, "remediation": mending}
    opened = incident("p" * 40, broken)
    opened["actor"] |= {"arn": text}
    opened["timeline"] = [{"at": at(minutes=1), "what": "cluster.lock_requested", "detail": text}] * 300
    opened["clusters"] = [{"cluster_id": "c" * 63, "status": "UNLOCK_FAILED"}] * 200
    keys = [("p" * 40, broken)] * 500
    largest = Fleet(keys, [opened] * 300, changed={"brake": [{"since": None, "reason": text}] * 20}).seen()

    answer = json.dumps(widget(largest, endpoint=ENDPOINT, dark=True))

    assert len(answer) < LAMBDAS_MOST * 0.8


def test_times_are_said_in_their_largest_units() -> None:
    def said(**before: float) -> str:
        return ago(NOW - timedelta(**before), NOW)

    assert [said(seconds=0), said(seconds=59), said(minutes=59), said(hours=1, minutes=4), said(days=2, hours=3)] == [
        "0 s",
        "59 s",
        "59 min",
        "1 h 04 min",
        "2 d 3 h",
    ]
    assert ago(NOW + timedelta(seconds=5), NOW) == "0 s", "another machine's clock may be ahead"


def test_the_overview_reads_what_the_api_answers() -> None:
    seen: Overview = night().seen()

    assert seen.total == 500
    assert seen.keys[0].level is Level.ALARM
    assert {each.word for each in seen.keys} == {"UNHEALTHY", "SUSPECT", "UNKNOWN", "STALE", "HEALTHY"}
    assert [each.name for each in seen.keys if each.name == "acme/vectors"]
    assert all(each.key is not None for each in seen.incidents)
