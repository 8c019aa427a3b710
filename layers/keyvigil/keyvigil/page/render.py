"""The picture itself: what is wrong, what to do about it, then everything else, in the order in which one asks."""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from keyvigil.page.html import Html, joined, name, shown, tag, whole
from keyvigil.page.overview import (
    Entry,
    Headline,
    IncidentShown,
    KeyShown,
    Level,
    Overview,
    ago,
    counted,
    headline,
)
from keyvigil.page.style import STYLE

SIGN: Final = {Level.ALARM: "✕", Level.WARNING: "!", Level.FINE: "✓", Level.EMPTY: "○"}
_LEVEL_OF = {
    "HEALTHY": Level.FINE,
    "ACTIVE": Level.FINE,
    "RESOLVED": Level.FINE,
    "UNHEALTHY": Level.ALARM,
    "LOCKED": Level.ALARM,
    "PARTLY_LOCKED": Level.ALARM,
    "LOCK_FAILED": Level.ALARM,
    "UNLOCK_FAILED": Level.ALARM,
    "OBSERVED": Level.ALARM,
    "DISMISSED": Level.EMPTY,
    "PENDING_KEY": Level.WARNING,
}
_HELD_FOR = {
    "brake": "the brake: too many keys turned bad at once, or no canary vouches for KeyVigil",
    "approval": "a person's approval, which the project asks for",
    "grace": "the end of the project's grace",
    "flapping": "a person: the key broke for the third time within an hour",
    "ceiling": "the ceiling of lockouts within 15 minutes",
    "operator": "the person who holds it",
}

type CheckNow = Callable[[KeyShown], Html]
"""What lets somebody have a key probed now: a button where one can act, a command where one cannot."""

ENTRIES_OPEN = 8
"""How many of an incident's newest timeline entries are shown unfolded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is shown. What is left out is counted, and the sentence says where it is."""

    incidents: int = 100
    entries: int = 300
    troubled_keys: int = 1_000
    clusters: int = 200
    all_keys: bool = True


PAGE_BOUNDS = Bounds()
WIDGET_BOUNDS = Bounds(incidents=10, entries=20, troubled_keys=100, clusters=40, all_keys=False)
"""A widget is a function's answer, at most 6 MB, and is drawn again with every refresh of the dashboard:
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""


def page(seen: Overview) -> str:
    """A whole page, which loads nothing and runs nothing: its policy forbids both.

    https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Content-Security-Policy
    """
    said = headline(seen)
    # Nothing shown here may act on its own, whatever the names in it say.
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    title = tag("title", f"{said.title} · KeyVigil {seen.stack}")
    body = _body(
        seen, said, PAGE_BOUNDS, lambda key: _commands([_command(seen, "key", "check", key.project_id, key.key_id)])
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"{title}<style>html,body{{margin:0}}body{{min-height:100vh}}{STYLE}</style></head>"
        f'<body class="kv auto">{body}</body></html>\n'
    )


def widget(seen: Overview, *, endpoint: str, dark: bool, notice: str | None = None) -> str:
    """The inside of a CloudWatch custom widget, which may have styles and no script.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_security.html

    Args:
        seen: what is shown.
        endpoint: the ARN of the function that a press of "Check now" calls.
        dark: whether the dashboard is dark.
        notice: what came of the last press, if this is its answer.
    """
    said = headline(seen)
    told = tag("p", notice, class_="card tile", role="status") if notice else Html("")
    body = _body(seen, said, WIDGET_BOUNDS, lambda key: _button(key, endpoint))
    theme = "dark" if dark else "light"
    # Its own styles only: the console's defaults for tables and links would fight with them.
    plain = '<div class="cwdb-no-default-styles"></div>'
    return f'{plain}<style>{STYLE}</style><div class="kv {theme}">{told}{body}</div>'


CHECK_NOW: Final = "check_now"
_SAFE_IN_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"})


def _button(key: KeyShown, endpoint: str) -> Html:
    """A button that asks before it acts. What asks is a fixed sentence: nothing says how the console writes it.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_interactivity.html
    """
    asked = json.dumps({"action": CHECK_NOW, "project_id": key.project_id, "key_id": key.key_id})
    action = (
        f'<cwdb-action action="call" display="widget" endpoint="{shown(endpoint)}" '
        'confirmation="Probe this key now? It takes three requests to KMS, as every probe does, and locks nothing.">'
        # JSON that is the same whether or not it is read as HTML first.
        f"{asked.translate(_SAFE_IN_HTML)}</cwdb-action>"
    )
    return Html(f"{tag('a', 'Check now', class_='btn', tabindex=0, role='button')}{action}")


# --- the parts ---------------------------------------------------------------------------------------------------


def _body(seen: Overview, said: Headline, bounds: Bounds, check: CheckNow) -> Html:
    where = joined([tag("span", "KeyVigil", class_="brand"), " · ", name(seen.stack), " · ", seen.region])
    at = tag("span", f"as of {seen.taken_at:%Y-%m-%d %H:%M:%S} UTC", class_="quiet")
    return tag(
        "div",
        tag("header", tag("div", where), at, class_="top"),
        tag(
            "main",
            _banner(said),
            _incidents(seen, bounds),
            _troubled(seen, bounds, check),
            _numbers(seen),
            _all_keys(seen) if bounds.all_keys else None,
        ),
        _foot(seen),
        class_="wrap",
    )


def _banner(said: Headline) -> Html:
    sign = tag("span", SIGN[said.level], class_="sign", aria_hidden="true")
    points = [tag("li", each) for each in said.points]
    if said.level is Level.EMPTY:
        points.append(tag("li", "Register a project and its keys: ", tag("code", "keyvigil project create --help")))
    return tag(
        "section",
        tag("h1", sign, tag("span", f"{said.title}")),
        tag("ul", *points) if points else None,
        class_=f"banner {said.level}",
        aria_label=f"State of the fleet: {said.level}",
    )


def _incidents(seen: Overview, bounds: Bounds) -> Html:
    if not seen.open_incidents and not seen.incidents:
        return Html("")
    listed = seen.incidents[: bounds.incidents]
    left = max(seen.open_incidents, len(seen.incidents)) - len(listed)
    more = f"{counted(left, 'more is', 'more are')} open and not shown here: keyvigil incident list"
    return tag(
        "section",
        tag("h2", f"Open incidents ({max(seen.open_incidents, len(seen.incidents)):,})"),
        *(_incident(seen, each, bounds) for each in listed),
        tag("p", more, class_="quiet") if left > 0 else None,
    )


def _incident(seen: Overview, each: IncidentShown, bounds: Bounds) -> Html:
    key = each.key
    clusters = [
        tag("li", name(cluster), " ", _badge(status), class_="chip")
        for cluster, status in each.clusters[: bounds.clusters]
    ]
    left = len(each.clusters) - len(clusters)
    if left > 0:
        clusters.append(tag("li", f"and {left:,} more"))
    facts: list[tuple[str, Html | str | None]] = [
        (
            "Cause",
            joined([tag("b", each.cause), ": " if key else "", name(key.message) if key and key.message else ""]),
        ),
        ("Since", f"{each.opened_at:%Y-%m-%d %H:%M:%S} UTC, {ago(each.opened_at, seen.taken_at)} ago"),
        ("Who did it", name(each.actor) if each.actor else "not known (yet)"),
        ("Waits for", _HELD_FOR.get(each.held_for or "", each.held_for)),
        ("Key now", _key_now(seen, key) if key else None),
        ("Clusters", tag("ul", *clusters, class_="chips") if clusters else "none under this key"),
    ]
    return tag(
        "article",
        tag(
            "div",
            _badge(each.status),
            tag("h3", name(key.name if key else each.key_id)),
            tag("span", name(each.project_id), f" · {key.region} · {key.account_id}" if key else "", class_="quiet"),
            class_="head",
        ),
        tag("dl", *(joined([tag("dt", term), tag("dd", value)]) for term, value in facts if value), class_="facts"),
        _mending(key),
        _decisions(seen, each),
        _timeline(each, bounds),
        class_=f"card incident {_level(each.status)}",
    )


def _key_now(seen: Overview, key: KeyShown) -> Html:
    return joined([_badge(key.word), f" probed {ago(key.last_probed_at, seen.taken_at)} ago ({key.last_trigger})"])


def _mending(key: KeyShown | None) -> Html:
    if key is None or not key.mending:
        return Html("")
    return tag("div", tag("p", key.mending), _commands(key.commands), class_="do")


def _decisions(seen: Overview, each: IncidentShown) -> Html:
    """The commands by which a person decides: whoever looks here is not known, and a decision has a name."""
    verbs = ["approve", "hold", "dismiss"] if each.may_be_held else ["dismiss"]
    if each.status in {"DISMISSED", "UNLOCKING", "RESOLVED"}:
        return Html("")
    lines = [_command(seen, "incident", verb, each.project_id, each.incident_id, reason=True) for verb in verbs]
    if each.status == "HELD":  # it waits for somebody, who should not have to look for what to type
        return tag(
            "div", tag("p", "Decide: lock now, go on waiting, or let the clusters be."), _choices(lines), class_="do"
        )
    summary = (
        "Decide about it: lock now, wait, or let the clusters be" if each.may_be_held else "Dismiss it, which unlocks"
    )
    return tag("details", tag("summary", summary), _choices(lines))


def _timeline(each: IncidentShown, bounds: Bounds) -> Html:
    entries = each.timeline[-bounds.entries :]
    if not entries:
        return Html("")
    left = each.earlier or len(entries) < len(each.timeline)
    early, late = entries[:-ENTRIES_OPEN], entries[-ENTRIES_OPEN:]
    folded = f"{counted(len(early), 'earlier entry', 'earlier entries')}" + (", and more before them" if left else "")
    return tag(
        "div",
        tag("details", tag("summary", folded), _entries(early, each.opened_at)) if early else None,
        _entries(late, each.opened_at),
    )


def _entries(entries: Sequence[Entry], opened_at: datetime) -> Html:
    return tag(
        "ol",
        *(
            tag(
                "li",
                tag(
                    "time",
                    f"{each.at:%H:%M:%S}",
                    title=f"{each.at:%Y-%m-%d}, {ago(opened_at, each.at)} after it opened",
                ),
                tag("span", each.what, class_="what"),
                tag("span", name(each.detail), class_="detail"),
            )
            for each in entries
        ),
        class_="line",
    )


def _troubled(seen: Overview, bounds: Bounds, check: CheckNow) -> Html:
    keys = seen.troubled
    if not keys:
        return Html("")
    listed = keys[: bounds.troubled_keys]
    left = len(keys) - len(listed) + seen.left_out
    return tag(
        "section",
        tag("h2", f"Keys that need a look ({len(keys) + seen.left_out:,})"),
        _rows(seen, listed, check, explained=True),
        tag("p", f"{left:,} more are not shown here: keyvigil fleet", class_="quiet") if left else None,
    )


def _rows(seen: Overview, keys: Iterable[KeyShown], check: CheckNow | None, *, explained: bool) -> Html:
    return tag("ul", *(_row(seen, each, check, explained=explained) for each in keys), class_="rows card")


def _row(seen: Overview, key: KeyShown, check: CheckNow | None, *, explained: bool) -> Html:
    why = None
    if explained:
        # An incident above says the rest of what is to be done.
        said = key.message if key.level is Level.ALARM or key.unknown_since else None
        unknown = f"unknown for {ago(key.unknown_since, seen.taken_at)}" if key.unknown_since else None
        words = ": ".join(each for each in (unknown, key.cause if said else None, said) if each)
        why = tag("div", tag("p", name(words)) if words else None, check(key) if check else None, class_="why")
    return tag(
        "li",
        tag("span", _badge(key.word)),
        tag("span", tag("b", name(key.name))),
        tag("span", name(key.project_id), tag("span", f" · {key.region}", class_="quiet")),
        tag(
            "span",
            f"probed {ago(key.last_probed_at, seen.taken_at)} ago ({key.last_trigger}), "
            f"{counted(key.clusters, 'cluster', 'clusters')}",
            class_="quiet",
        ),
        why,
        class_=str(key.level),
    )


def _numbers(seen: Overview) -> Html:
    return tag(
        "section",
        tag("h2", "The fleet"),
        tag("div", _key_tile(seen), _cluster_tile(seen), _watcher_tile(seen), class_="tiles"),
    )


def _key_tile(seen: Overview) -> Html:
    parts = [(status, number, _level(status)) for status, number in seen.key_counts.items()]
    bar = tag(
        "div",
        *(tag("span", class_=str(level), style=f"flex:{number}") for _, number, level in parts if number),
        class_="bar",
        aria_hidden="true",
    )
    parts += [("of these UNKNOWN", seen.unknown, Level.WARNING), ("of these STALE", seen.stale, Level.WARNING)]
    return tag(
        "div",
        tag("h3", f"{counted(seen.total, 'key', 'keys')} by status"),
        bar,
        *map(_count, parts),
        class_="tile card",
    )


def _cluster_tile(seen: Overview) -> Html:
    total = sum(seen.cluster_counts.values())
    parts = [(status, number, _level(status)) for status, number in seen.cluster_counts.items()]
    return tag(
        "div", tag("h3", f"{counted(total, 'cluster', 'clusters')} by status"), *map(_count, parts), class_="tile card"
    )


def _count(part: tuple[str, int, Level]) -> Html:
    word, number, level = part
    return tag("div", tag("span", word), tag("b", f"{number:,}"), class_=f"count {level if number else 'none'}")


def _watcher_tile(seen: Overview) -> Html:
    """Whether KeyVigil itself is well: sweeps, canaries, the brake."""
    sweep = f"{ago(seen.last_sweep_at, seen.taken_at)} ago" if seen.last_sweep_at else "never"
    lines = [_fact("Last sweep", sweep, Level.ALARM if seen.sweep_is_late else Level.FINE)]
    for each in seen.canaries:
        when = f", probed {ago(each.probed_at, seen.taken_at)} ago" if each.probed_at else ""
        partial = " (the stack's)" if each.partial else ""
        lines.append(_fact(f"Canary {each.region}{partial}", f"{each.outcome}{when}", _level(each.outcome)))
    if not seen.canaries:
        lines.append(_fact("Canary", "none was probed yet", Level.WARNING))
    for brake in seen.brakes:
        since = f" for {ago(brake.since, seen.taken_at)}" if brake.since else ""
        lines.append(_fact(f"Brake on {brake.scope}", f"engaged{since}: {brake.reason}", Level.WARNING))
    if not seen.brakes:
        lines.append(_fact("Brake", "released", Level.FINE))
    return tag("div", tag("h3", "KeyVigil itself"), *lines, class_="tile card")


def _fact(term: str, value: str, level: Level) -> Html:
    return tag("div", tag("span", name(term)), tag("span", name(value)), class_=f"count {level}")


def _all_keys(seen: Overview) -> Html:
    if not seen.keys:
        return Html("")
    ordered = sorted(seen.keys, key=lambda each: each.project_id)
    projects = [(project, list(keys)) for project, keys in groupby(ordered, key=lambda each: each.project_id)]
    return tag("section", tag("h2", "All keys by project"), *(_project(seen, each, keys) for each, keys in projects))


def _project(seen: Overview, project_id: str, keys: Sequence[KeyShown]) -> Html:
    wrong = sum(each.level is not Level.FINE for each in keys)
    state = f"{counted(len(keys), 'key', 'keys')}, " + (f"{wrong} not fine" if wrong else "all healthy")
    return tag(
        "details",
        tag("summary", tag("b", name(project_id)), tag("span", f" {state}", class_="quiet")),
        _rows(seen, keys, None, explained=False),
        class_="project card",
    )


def _foot(seen: Overview) -> Html:
    return tag(
        "footer",
        "A picture of one moment; it does not change by itself. Every alert and alarm is explained in docs/alerts.md, "
        "every cause in docs/causes.md. ",
        _decided_by() if seen.open_incidents else None,
        class_="foot",
    )


def _decided_by() -> Html:
    return tag("span", "Decisions are made on the command line, because each one keeps the name of who made it.")


def _level(status: str) -> Level:
    """What is not known here is worth a look."""
    return _LEVEL_OF.get(status, Level.WARNING)


def _badge(status: str) -> Html:
    level = {"STALE": Level.WARNING, "UNKNOWN": Level.WARNING}.get(status, _level(status))
    return tag("span", f"{SIGN[level]} {status}", class_=f"badge {level}")


def _commands(lines: Iterable[str]) -> Html:
    text = "\n".join(lines)
    return Html(f"<pre><code>{whole(text)}</code></pre>") if text else Html("")


def _choices(lines: Iterable[str]) -> Html:
    """Commands of which one is chosen: each is selected by itself, so that nobody pastes them all."""
    return joined(_commands([line]) for line in lines)


def _command(seen: Overview, *words: str, reason: bool = False) -> str:
    stack = [] if seen.stack == "keyvigil" else ["--stack", seen.stack]
    return shlex.join(["keyvigil", *words, *stack]) + (" --reason '…'" if reason else "")
