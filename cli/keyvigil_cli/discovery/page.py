"""The inventory as a page for a browser: it loads nothing, runs nothing, and escapes every name."""

from collections.abc import Iterable, Sequence

from keyvigil.page.html import Html, joined, name, tag, whole
from keyvigil.page.overview import Level
from keyvigil.page.render import SIGN
from keyvigil.page.style import STYLE
from keyvigil_cli.discovery.model import Finding, Inventory, KeyUse, Manager, Resource, Unread, Weight
from keyvigil_cli.discovery.report import owner_of, status_of, stopping, summary, whose
from keyvigil_cli.exit_status import ExitStatus

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# One row has three cells here and not the fleet's four.
_OWN_STYLE = """
.kv .rows.found li{grid-template-columns:12em minmax(0,1fr) minmax(0,2fr)}
@media(max-width:720px){.kv .rows.found li{grid-template-columns:1fr}}
"""

_LEVEL = {
    ExitStatus.FINE: Level.FINE,
    ExitStatus.UNHEALTHY: Level.ALARM,
    ExitStatus.ERROR: Level.ALARM,
}
_TITLE = {
    ExitStatus.FINE: "What hangs on which key",
    ExitStatus.UNHEALTHY: "Something hangs on a key that cannot be used",
    ExitStatus.UNKNOWN: "What hangs on which key, as far as it could be read",
    ExitStatus.ERROR: "Nothing could be read",
}

_SHOWN_RESOURCES = 500
"""Of one kind under one key. The rest is counted; the JSON has all."""


def page(found: Inventory) -> str:
    """Return the whole page."""
    status = status_of(found)
    title = tag("title", f"{_TITLE[status]} · KeyVigil discover")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"{title}<style>html,body{{margin:0}}body{{min-height:100vh}}{STYLE}{_OWN_STYLE}</style></head>"
        f'<body class="kv auto">{_body(found, status)}</body></html>\n'
    )


def _body(found: Inventory, status: ExitStatus) -> Html:
    places = ", ".join(str(each) for each in found.places) or "nowhere"
    where = joined([tag("span", "KeyVigil", class_="brand"), " · discover · ", name(places)])
    at = tag("span", f"as of {found.taken_at:%Y-%m-%d %H:%M:%S} UTC", class_="quiet")
    return tag(
        "div",
        tag("header", tag("div", where), at, class_="top"),
        tag(
            "main",
            _banner(found, status),
            _section("Could not be read", map(_unread, found.unread), len(found.unread)),
            _section("Not well kept", map(_finding, found.findings), len(found.findings)),
            _keys("Keys that somebody can take away", found.customers),
            _keys("AWS's own keys", found.of_aws),
        ),
        tag("footer", "A picture of one moment; it does not change by itself.", class_="foot"),
        class_="wrap",
    )


def _banner(found: Inventory, status: ExitStatus) -> Html:
    level = _LEVEL.get(status, Level.WARNING)
    points = [tag("li", summary(found)), *(tag("li", name(each)) for each in found.notes)]
    return tag(
        "section",
        tag("h1", tag("span", SIGN[level], class_="sign", aria_hidden="true"), tag("span", _TITLE[status])),
        tag("ul", *points),
        class_=f"banner {level}",
    )


def _section(heading: str, rows: Iterable[Html], count: int) -> Html:
    if not count:
        return Html("")
    return tag("section", tag("h2", f"{heading} ({count:,})"), tag("ul", *rows, class_="rows found card"))


def _unread(unread: Unread) -> Html:
    partly = " (partly)" if unread.partly else ""
    return tag(
        "li",
        tag("span", _badge(Level.WARNING, unread.code)),
        tag("span", tag("b", name(unread.what)), partly, " ", tag("span", name(str(unread.place)), class_="quiet")),
        tag("span", name(unread.why)),
    )


def _finding(finding: Finding) -> Html:
    level = Level.ALARM if finding.weight is Weight.UNHEALTHY else Level.WARNING
    return tag(
        "li",
        tag("span", _badge(level, finding.code)),
        tag("span", tag("b", name(finding.name)), " ", tag("span", name(str(finding.place)), class_="quiet")),
        tag("div", tag("p", name(finding.message)), tag("p", name(finding.advice), class_="quiet")),
    )


def _keys(heading: str, uses: Iterable[KeyUse]) -> Html:
    uses = list(uses)
    return tag("section", tag("h2", f"{heading} ({len(uses):,})"), *map(_key, uses)) if uses else Html("")


def _key(use: KeyUse) -> Html:
    key = use.key
    state = key.state or "not known"
    level = _level(use)
    facts = [
        ("Whose", whose(key)),
        ("Where", f"{owner_of(key)} {key.place.region}"),
        ("Description", key.description),
        ("Rotation", None if key.rotation_enabled is None else "on" if key.rotation_enabled else "off"),
        ("To be deleted", f"{key.deletion_date:%Y-%m-%d}" if key.deletion_date else None),
    ]
    rows = [tag("dt", term) + tag("dd", name(value)) for term, value in facts if value]
    stops = [_stop(*each) for each in stopping(use)] or [tag("p", "Nothing that was read hangs on it.", class_="quiet")]
    return tag(
        "article",
        tag("div", _badge(level, state), tag("h3", name(key.name)), class_="head"),
        tag("dl", Html("".join(rows)), class_="facts"),
        tag("pre", tag("code", whole(key.arn))),
        *stops,
        class_=f"card incident {level}",
    )


def _stop(what: str, how: str, _source: str, listed: Sequence[Resource]) -> Html:
    chips = [
        tag("li", name(each.name), " ", name(each.part) if each.part else None, class_="chip")
        for each in listed[:_SHOWN_RESOURCES]
    ]
    left = len(listed) - len(chips)
    if left > 0:
        chips.append(tag("li", f"and {left:,} more: --output json has them all"))
    return tag("div", tag("p", what), tag("span", how, class_="quiet"), tag("ul", *chips, class_="chips"), class_="do")


def _level(use: KeyUse) -> Level:
    if any(each.weight is Weight.UNHEALTHY for each in use.findings):
        return Level.ALARM
    if use.key.manager is Manager.UNKNOWN or use.findings:
        return Level.WARNING
    return Level.FINE if use.resources else Level.EMPTY


def _badge(level: Level, words: str) -> Html:
    return tag("span", f"{SIGN[level]} ", name(words), class_=f"badge {level}")
