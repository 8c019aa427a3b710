"""README's pictures of the terminal: real commands over the real API in memory, as rich draws them. `make pictures`."""

import io
import re
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from typer.testing import CliRunner

from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import AffectedCluster, IncidentStatus, TimelineEntry
from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import SweepRecord
from keyvigil_cli.command_line import Run
from keyvigil_cli.main import app
from tests.examples import actor, canary, cluster, incident, key, project, verdict
from tests.unit.cli.registry_server import serving
from tests.unit.test_api import Api

PICTURES = Path(__file__).resolve().parents[3] / "docs" / "pictures"
INCIDENT = "01M82WGN77FJRK2YSDJC8HCG7F"
DRAWN_AT = datetime.fromisoformat("2026-11-23T01:45:22Z")
COMMANDS = {"terminal-fleet": "fleet", "terminal-incident": f"incident show acme-prod {INCIDENT}"}
# Without the fonts that rich would have a browser fetch: a picture loads nothing.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


class Stopped(datetime):
    """The clock of the pictures, so that they change only when what they show does."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(DRAWN_AT.timestamp(), tz)


_STORY = (
    (0.0, "key.suspect", "schedule probe: the key is disabled, so Encrypt was refused (1 of 3 probes in a row)"),
    (20.4, "key.unhealthy", "lockout probe: the key is disabled, so Encrypt was refused (3 of 3 probes in a row)"),
    (21.5, "lockout.begun", "3 of 3 probes in a row found a definite cause; 0 of at most 20 lockouts began lately"),
    (23.0, "cluster.lock_requested", "vectors-prod: lock asked for via event, fence 1795393367707"),
    (23.3, "cluster.locked", "vectors-prod: locked said its control plane after 0 s"),
    (24.3, "incident.locked", "1 of 1 clusters are locked"),
)


def _fill(api: Api, now: datetime) -> None:
    opened = now - timedelta(minutes=31)
    store = api.store
    store.items.clear()
    broken = key(
        health=Health(status=KeyStatus.UNHEALTHY, confirmed=True),
        verdict=verdict(Cause.KEY_DISABLED, at=now),
        open_incident_id=INCIDENT,
        last_probed_at=now,
        clusters=1,
    )
    others = [
        key(key_id=f"us-west-2.{number:08x}-12ab-34cd-56ef-1234567890ab", last_probed_at=now) for number in range(12)
    ]
    store.put(project(), broken, *others)
    store.put(cluster(status=ClusterStatus.LOCKED, locked_by_incident_id=INCIDENT))
    store.put(replace(canary(), began_at=now))
    store.put(
        incident(
            incident_id=INCIDENT,
            status=IncidentStatus.LOCKED,
            opened_at=opened,
            confirmed_at=opened + timedelta(seconds=20.4),
            locked_at=opened + timedelta(seconds=24.3),
            actor=replace(actor(), event_time=opened - timedelta(seconds=58)),
            clusters=(AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.LOCKED),),
        ),
        *(
            TimelineEntry(
                incident_id=INCIDENT, entry_id=str(number), at=opened + timedelta(seconds=after), what=what, detail=said
            )
            for number, (after, what, said) in enumerate(_STORY)
        ),
    )
    store.record_sweep(SweepRecord(at=now - timedelta(seconds=9), keys_due=4, keys_sent=4))


def _drawn(words: str, patch: pytest.MonkeyPatch) -> str:
    console = Console(
        record=True, width=132, file=io.StringIO(), force_terminal=True, highlight=False, markup=False, emoji=False
    )
    patch.setattr(Run, "output", console)
    result = CliRunner().invoke(app, words.split())
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return console.export_svg(title=f"keyvigil {words}", code_format=_FORMAT, unique_id="keyvigil")


def main() -> None:
    """Draw them."""
    PICTURES.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        api = Api(patch)
        api.fill()
        _fill(api, DRAWN_AT)
        patch.setattr("keyvigil_cli.table.datetime", Stopped)
        patch.setattr("keyvigil_cli.commands.fleet.datetime", Stopped)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        patch.setenv("POWERTOOLS_LOG_LEVEL", "CRITICAL")
        with serving(api) as server:
            patch.setenv("KEYVIGIL_API_URL", server.url)
            for name, words in COMMANDS.items():
                (PICTURES / f"{name}.svg").write_text(_drawn(words, patch), encoding="utf-8")


if __name__ == "__main__":
    main()
