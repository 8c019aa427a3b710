"""One project, driven over the API: what is registered in it, and waiting for what becomes of it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

from keyvigil_cli.alert_queue import AlertQueue
from keyvigil_cli.api_client import ApiClient, JsonObject
from keyvigil_cli.customer import RegistrableKey
from keyvigil_cli.waiting import wait_until

# A sweep every minute, the emulator's start of cold functions, and a slow machine.
SWEEP_SECONDS = 150.0
# Confirmation and recovery: three probes ten seconds apart, then the workflow's own steps.
WORKFLOW_SECONDS = 150.0


class Project:
    """A project that exists. Every method is one call, or polls one until a deadline."""

    def __init__(self, api: ApiClient, created: Mapping[str, Any]) -> None:
        """Take the answer of ``POST /projects``."""
        self.api = api
        self.project_id: str = created["project_id"]
        self.external_id: str = created["external_id"]
        self.alert_topic_arn: str = created["alert_topic_arn"]
        self.on_look: Callable[[str], None] = lambda _words: None
        """Told in words what each look of a waiting method saw."""

    @classmethod
    def create(cls, api: ApiClient, project_id: str, **settings: str | int) -> Self:
        """Create it; ``settings`` are fields of ``POST /projects``. Keys are due every minute unless told."""
        body = {"project_id": project_id, "name": project_id, "check_interval_minutes": 1, **settings}
        return cls(api, api.post("projects", body=body))

    def register_key(
        self, key: RegistrableKey, *, use: str = "cmek", probe_secret_arn: str | None = None
    ) -> JsonObject:
        """Register a customer's key, which is probed before the answer comes. Only ``kes`` takes a secret."""
        body: JsonObject = {"key_arn": key.key_arn, "role_arn": key.role_arn, "use": use}
        if probe_secret_arn is not None:
            body["probe_secret_arn"] = probe_secret_arn
        return self._post("keys", body=body)

    def register_cluster(
        self, cluster_id: str, key_id: str, lock: Mapping[str, str | int], *, kind: str = "zilliz-byoc"
    ) -> JsonObject:
        """Register a cluster that stops working without the key, and say how it is locked."""
        region = key_id.partition(".")[0]
        body = {
            "cluster_id": cluster_id, "name": cluster_id, "kind": kind, "region": region, "key_id": key_id,
            "lock": dict(lock),
        }  # fmt: skip
        return self._post("clusters", body=body)

    def subscribe(self, queue: AlertQueue, *, types: Collection[str] = ()) -> JsonObject:
        """Let alerts come to a queue: all of them, or some types."""
        body: JsonObject = {"protocol": "sqs", "endpoint": queue.endpoint}
        if types:
            body["types"] = list(types)
        return self._post("subscriptions", body=body)

    def key(self, key_id: str) -> JsonObject:
        """Return a key as it is now."""
        return self.api.get("projects", self.project_id, "keys", key_id)

    def cluster(self, cluster_id: str) -> JsonObject:
        """Return a cluster as it is now."""
        return self.api.get("projects", self.project_id, "clusters", cluster_id)

    def incident(self, incident_id: str) -> JsonObject:
        """Return an incident with its timeline."""
        return self.api.get("projects", self.project_id, "incidents", incident_id)

    def incidents(self) -> list[JsonObject]:
        """Return all incidents of the project."""
        return list(self.api.items("projects", self.project_id, "incidents"))

    def wait_for_key(
        self,
        key_id: str,
        waited_for: str,
        is_there: Callable[[JsonObject], bool],
        *,
        within: float = SWEEP_SECONDS,
    ) -> JsonObject:
        """Wait until the key is as ``is_there`` wants it."""
        return self._wait(waited_for, lambda: self.key(key_id), is_there, within=within, show=_key_in_words)

    def wait_for_key_status(self, key_id: str, *statuses: str, within: float = SWEEP_SECONDS) -> JsonObject:
        """Wait until the key's status is one of these."""
        return self.wait_for_key(
            key_id,
            f"the key to be {' or '.join(statuses)}",
            lambda key: key["status"] in statuses,
            within=within,
        )

    def wait_for_clusters(
        self, cluster_ids: Collection[str], status: str, *, within: float = WORKFLOW_SECONDS
    ) -> dict[str, JsonObject]:
        """Wait until all of these clusters have this status."""
        return self._wait(
            f"{', '.join(cluster_ids)} to be {status}",
            lambda: {cluster_id: self.cluster(cluster_id) for cluster_id in cluster_ids},
            lambda clusters: all(cluster["status"] == status for cluster in clusters.values()),
            within=within,
            show=lambda clusters: ", ".join(f"{name} {cluster['status']}" for name, cluster in clusters.items()),
        )

    def wait_for_incident(self, incident_id: str, *statuses: str, within: float = WORKFLOW_SECONDS) -> JsonObject:
        """Wait until the incident's status is one of these."""
        return self._wait(
            f"incident {incident_id} to be {' or '.join(statuses)}",
            lambda: self.incident(incident_id),
            lambda incident: incident["status"] in statuses,
            within=within,
            show=_incident_in_words,
        )

    def _wait[T](
        self,
        waited_for: str,
        look: Callable[[], T],
        is_there: Callable[[T], bool],
        *,
        within: float,
        show: Callable[[T], str],
    ) -> T:
        def look_and_tell() -> T:
            seen = look()
            self.on_look(show(seen))
            return seen

        return wait_until(waited_for, look_and_tell, is_there, within=within, show=show)

    def _post(self, collection: str, *, body: JsonObject) -> JsonObject:
        return self.api.post("projects", self.project_id, collection, body=body)


def _key_in_words(key: JsonObject) -> str:
    verdict = key.get("verdict") or {}
    return (
        f"{key.get('status')}, verdict {verdict.get('outcome')} {verdict.get('cause') or ''} "
        f"at {key.get('last_probed_at')} by {key.get('last_trigger')}, incident {key.get('open_incident_id')}"
    )


def _incident_in_words(incident: JsonObject) -> str:
    latest = (incident.get("timeline") or [{}])[-1]
    clusters = ", ".join(f"{cluster['cluster_id']} {cluster['status']}" for cluster in incident["clusters"])
    return (
        f"{incident['status']}, held for {incident.get('held_for')}, clusters {clusters or 'none'}, "
        f"last in its timeline: {latest.get('what')} {latest.get('detail')}"
    )
