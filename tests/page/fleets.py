"""Fleets to look at, as the API answers about them: small and large, well and unwell, and with hostile names."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from keyvigil.page.overview import Overview, overview

type Json = dict[str, Any]

NOW = datetime(2026, 11, 22, 3, 12, 9, tzinfo=UTC)
REGIONS = ("us-west-2", "eu-central-1", "ap-southeast-2")
PROJECTS = ("acme-prod", "acme-staging", "borealis", "cobalt-health", "delta-maps", "ember", "fjord-bank", "gale-iot")
CLUSTERS = ("PENDING_KEY", "ACTIVE", "LOCKING", "LOCKED", "UNLOCKING", "LOCK_FAILED", "UNLOCK_FAILED")


def at(**before: float) -> str:
    """A time before the moment of the picture, as the API writes it."""
    return (NOW - timedelta(**before)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def key(number: int, **changed: Any) -> Json:
    """A healthy key."""
    region = REGIONS[number % len(REGIONS)]
    key_id = f"{number:08x}-d6e6-4a03-9c0e-e2179f1a2112"
    healthy = {
        "outcome": "HEALTHY",
        "cause": None,
        "message": "The key works: DescribeKey, Encrypt, Decrypt succeeded.",
        "remediation": None,
    }
    return {
        "key_id": f"{region}.{key_id}",
        "alias_arn": None,
        "region": region,
        "account_id": f"{222222222222 + number // 20}",
        "status": "HEALTHY",
        "unknown_since": None,
        "stale": False,
        "verdict": healthy,
        "last_probed_at": at(seconds=20 + number * 7 % 580),
        "last_trigger": "schedule",
        "open_incident_id": None,
        "clusters": number % 4,
        **changed,
    }


def disabled(number: int, **changed: Any) -> Json:
    """A key that its owner disabled."""
    shown = key(number)
    arn = f"arn:aws:kms:{shown['region']}:{shown['account_id']}:key/{shown['key_id'].partition('.')[2]}"
    mending = {
        "summary": "Enable the key again.",
        "commands": [f"aws kms enable-key --region {shown['region']} --key-id {arn}"],
    }
    verdict = {
        "outcome": "UNHEALTHY",
        "cause": "KEY_DISABLED",
        "message": f"The key {arn} is disabled, so Encrypt was refused.",
        "remediation": mending,
    }
    return {
        **shown,
        "status": "UNHEALTHY",
        "verdict": verdict,
        "last_probed_at": at(seconds=14),
        "clusters": 2,
        "open_incident_id": f"01M82J0MHXJDBG28GYYM1N{number:04}",
        **changed,
    }


def incident(project_id: str, shown: Json, **changed: Any) -> Json:
    """The incident of a broken key, locked."""
    what = (
        (31.0, "key.suspect", f"schedule probe: {shown['verdict']['message']} (1 of 3 probes in a row)"),
        (30.8, "actor.found", "arn:aws:sts::222222222222:assumed-role/Admin/jo called DisableKey from 198.51.100.7"),
        (30.65, "key.unhealthy", f"lockout probe: {shown['verdict']['message']} (3 of 3 probes in a row)"),
        (30.6, "lockout.begun", "3 of 3 probes in a row found a definite cause; 0 of at most 20 lockouts began lately"),
        (30.55, "cluster.lock_requested", "vectors-prod: lock asked for via event, fence 1795393367707"),
        (30.55, "cluster.lock_requested", "analytics-dev: lock asked for via none, fence 1795393367924"),
        (30.5, "cluster.locked", "analytics-dev: locked said the registry for fence 1795393367924 after 0 s"),
        (30.2, "cluster.locked", "vectors-prod: locked said its control plane for fence 1795393367707 after 19 s"),
        (30.2, "incident.locked", "2 of 2 clusters are locked"),
    )
    return {
        "incident_id": shown["open_incident_id"],
        "project_id": project_id,
        "key_id": shown["key_id"],
        "status": "LOCKED",
        "held_for": None,
        "cause": shown["verdict"]["cause"],
        "actor": {
            "arn": "arn:aws:sts::222222222222:assumed-role/Admin/jo",
            "event_name": "DisableKey",
            "source_ip": "198.51.100.7",
            "event_time": at(minutes=32),
        },
        "opened_at": at(minutes=31),
        "clusters": [
            {"cluster_id": "analytics-dev", "status": "LOCKED"},
            {"cluster_id": "vectors-prod", "status": "LOCKED"},
        ],
        "timeline": [{"at": at(minutes=before), "what": word, "detail": detail} for before, word, detail in what],
        "timeline_truncated": False,
        **changed,
    }


@dataclass
class Fleet:
    """Keys by project, incidents, and what GET /fleet says of them."""

    keys: list[tuple[str, Json]] = field(default_factory=list)
    incidents: list[Json] = field(default_factory=list)
    clusters: dict[str, int] = field(default_factory=dict)
    changed: Json = field(default_factory=dict)

    def answer(self) -> Json:
        """What GET /fleet says."""
        statuses = [each["status"] for _, each in self.keys]
        return {
            "keys": {word: statuses.count(word) for word in ("HEALTHY", "SUSPECT", "UNHEALTHY", "RECOVERING")},
            "unknown": sum(each["unknown_since"] is not None for _, each in self.keys),
            "stale_keys": sum(each["stale"] for _, each in self.keys),
            "clusters": dict.fromkeys(CLUSTERS, 0) | self.clusters,
            "open_incidents": len(self.incidents),
            "brake": [],
            "canaries": [
                {"region": region, "partial": region != REGIONS[0], "outcome": "HEALTHY", "probed_at": at(seconds=31)}
                for region in sorted({each["region"] for _, each in self.keys} | {REGIONS[0]})
            ],
            "last_sweep": {"at": at(seconds=9), "keys_due": 4, "keys_sent": 4},
            **self.changed,
        }

    def seen(self, stack: str = "keyvigil") -> Overview:
        """What is shown of it."""
        return overview(self.answer(), self.keys, self.incidents, stack=stack, region=REGIONS[0], taken_at=NOW)


def healthy(number: int) -> Fleet:
    """So many keys, and all of them work."""
    keys = [(PROJECTS[each * len(PROJECTS) // max(number, 1)], key(each)) for each in range(number)]
    return Fleet(keys, clusters={"ACTIVE": sum(each["clusters"] for _, each in keys)})


def night(number: int = 500) -> Fleet:
    """A bad night in a large fleet: an outage that locked, one that waits, a denial that nobody could judge."""
    fleet = healthy(number)
    broken = disabled(41, alias_arn="arn:aws:kms:eu-central-1:222222222224:alias/acme/vectors")
    held = disabled(77)
    unknown = key(120, unknown_since=at(minutes=12), verdict=_throttled(), last_probed_at=at(seconds=40))
    stale = key(200, stale=True, last_probed_at=at(hours=1, minutes=4))
    suspect = disabled(300, status="SUSPECT", open_incident_id="01M82J0MHXJDBG28GYYM1N0300", clusters=0)
    for place, changed in ((41, broken), (77, held), (120, unknown), (200, stale), (300, suspect)):
        fleet.keys[place] = (fleet.keys[place][0], changed)
    waiting = incident(
        fleet.keys[77][0],
        held,
        status="HELD",
        held_for="approval",
        actor=None,
        opened_at=at(minutes=4),
        clusters=[{"cluster_id": "search-eu", "status": "ACTIVE"}],
        timeline=[
            {"at": at(minutes=4), "what": "key.suspect", "detail": "schedule probe: the key is disabled"},
            {"at": at(minutes=3.6), "what": "key.unhealthy", "detail": "lockout probe: the key is disabled"},
            {"at": at(minutes=3.6), "what": "incident.held", "detail": "the project wants every lockout approved"},
        ],
    )
    confirming = incident(
        fleet.keys[300][0],
        suspect,
        status="CONFIRMING",
        actor=None,
        opened_at=at(seconds=14),
        clusters=[],
        timeline=[{"at": at(seconds=14), "what": "key.suspect", "detail": "schedule probe: the key is disabled"}],
    )
    fleet.incidents = [incident(fleet.keys[41][0], broken), waiting, confirming]
    fleet.clusters = {"ACTIVE": 741, "LOCKED": 2, "PENDING_KEY": 1}
    return fleet


def _throttled() -> Json:
    return {
        "outcome": "UNKNOWN",
        "cause": "THROTTLED",
        "message": "KMS throttled Encrypt, so nothing is known about the key.",
        "remediation": {"summary": "Nothing, unless it lasts.", "commands": []},
    }


HOSTILE = {
    "script": "<script>document.title='taken'</script>",
    "image": '<img src=x onerror="document.title=1">',
    "attribute": '"onmouseover="alert(1)" x="',
    "single": "'><svg/onload=alert(1)>",
    "action": '</cwdb-action><cwdb-action action="call" endpoint="arn:evil">{}</cwdb-action>',
    "style": "</style><style>*{display:none}",
    "comment": "<!-- --><![CDATA[ ]]>",
    "entity": "&lt;b&gt;&#60;script&#62;",
    "bidi": "safe\u202egnp.exe\u2066",
    "hidden": "a\u200bd\u00admin\ufeff\U000e0041",
    "control": "line\r\nbreak\x00\x1b[31mred\x07\x85",
    "separators": "one\u2028two\u2029three",
    "surrogate": "half \ud800 a pair",
    "long": "x" * 20_000,
    "javascript": "javascript:alert(1)",
    "templates": "{{7*7}}${7*7}{% raw %}%(name)s{0}",
    "shell": "$(reboot); `reboot` && 'reboot'",
    "wide": "名前🔑" * 50,
}
"""Names that somebody might give, who wants more than a name."""


def hostile(text: str) -> Fleet:
    """A fleet in which everything that is text says the same bad thing."""
    broken = {**disabled(1), "key_id": text, "alias_arn": f"arn:aws:kms:us-west-2:2:alias/{text}", "region": text}
    broken |= {"account_id": text, "last_trigger": text}
    broken["verdict"] = {
        "outcome": "UNHEALTHY",
        "cause": text,
        "message": text,
        "remediation": {"summary": text, "commands": [text]},
    }
    unknown = {**broken, "status": text, "alias_arn": None, "unknown_since": at(minutes=1)}
    opened = incident(text, broken, cause=text, held_for=text, status=text, incident_id=text)
    opened["actor"] = {"arn": text, "event_name": text, "source_ip": text, "event_time": at(minutes=2)}
    opened["clusters"] = [{"cluster_id": text, "status": text}]
    opened["timeline"] = [{"at": at(minutes=1), "what": text, "detail": text}]
    brake = {"region": text, "cause": text, "project_id": text, "since": at(minutes=1), "by": text, "reason": text}
    canary = {"region": text, "partial": True, "outcome": text, "probed_at": None}
    changed = {"brake": [brake], "canaries": [canary]}
    return Fleet([(text, broken), (text, unknown)], [opened], changed=changed)


def everybody() -> Iterator[tuple[str, Fleet]]:
    """What the page is looked at with."""
    yield "0-keys", healthy(0)
    yield "1-key", healthy(1)
    yield "500-keys", healthy(500)
    yield "a-bad-night", night()
    yield "no-sweeps", Fleet(healthy(3).keys, changed={"last_sweep": None, "canaries": []})
    everything = "".join(text for kind, text in HOSTILE.items() if kind != "long")
    yield "hostile-names", hostile(everything)
