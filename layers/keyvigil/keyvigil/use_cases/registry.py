"""The registry: projects, keys, clusters and subscriptions, as the API sees them."""

from dataclasses import dataclass, replace
from typing import Any

from keyvigil.domain.arns import is_queue_arn, parse_kms_arn, role_account
from keyvigil.domain.clusters import Cluster, ClusterKind, ClusterStatus, LockSettings
from keyvigil.domain.keys import (
    Health,
    Key,
    KeyFacts,
    KeyStatus,
    KeyUse,
    Registration,
    Trigger,
    next_due,
    probe_context,
)
from keyvigil.domain.projects import (
    MAX_CLUSTERS_PER_KEY,
    MAX_KEYS_PER_PROJECT,
    Approval,
    Enforcement,
    Project,
    Protocol,
    Subscription,
)
from keyvigil.domain.verdicts import Cause, Outcome, Verdict
from keyvigil.errors import (
    AlreadyExistsError,
    CheckerUnavailableError,
    ConflictError,
    NotFoundError,
    RefusedError,
)
from keyvigil.ports import Clock, Ids, KeyChecker, Put, Remove, Store, Topics
from keyvigil.use_cases.retrying import until_committed

ARN_FORMAT = "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID"
_ALL = 1000
_REFUSAL_TITLES = {
    Cause.KEY_DISABLED: "KMS key is disabled",
    Cause.KEY_PENDING_DELETION: "KMS key is pending deletion",
    Cause.KEY_NOT_FOUND: "KMS key not found",
    Cause.KEY_MATERIAL_MISSING: "KMS key has no key material",
    Cause.KEY_STORE_UNAVAILABLE: "KMS key store is unavailable",
    Cause.KEY_WRONG_USAGE: "KMS key cannot encrypt and decrypt",
    Cause.CIPHERTEXT_UNREADABLE: "KMS key does not decrypt its own ciphertext",
    Cause.ACCESS_DENIED: "Access denied to KMS key",
    Cause.ROLE_NOT_ASSUMABLE: "Role cannot be assumed",
    Cause.SECRET_UNREADABLE: "Secret cannot be read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """A project as its owner asks for it."""

    project_id: str
    name: str
    enforcement: Enforcement
    approval: Approval
    check_interval_minutes: int
    grace_minutes: int
    probe_plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCluster:
    """A cluster as its owner asks for it."""

    cluster_id: str
    name: str
    kind: ClusterKind
    region: str
    key_id: str
    lock: LockSettings


class Projects:
    """Makes, changes and removes projects, each with its topic."""

    def __init__(self, store: Store, topics: Topics, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._topics = topics
        self._clock = clock
        self._ids = ids

    def get(self, project_id: str) -> Project:
        """Read a project.

        Raises:
            NotFoundError: there is none.
        """
        project = self._store.project(project_id)
        if project is None:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        return project

    def create(self, new: NewProject) -> Project:
        """Make a project, its ExternalId and its topic.

        The topic comes first: creating it is idempotent, so a request that dies in between can be repeated.

        Raises:
            AlreadyExistsError: the id is taken.
        """
        if self._store.project(new.project_id) is not None:
            message = f"project {new.project_id} exists already"
            raise AlreadyExistsError(message)
        project = Project(
            project_id=new.project_id,
            name=new.name,
            enforcement=new.enforcement,
            approval=new.approval,
            check_interval_minutes=new.check_interval_minutes,
            grace_minutes=new.grace_minutes,
            probe_plan=new.probe_plan,
            external_id=self._ids.external_id(),
            alert_topic_arn=self._topics.create(new.project_id),
            created_at=self._clock.now(),
        )
        try:
            self._store.commit([Put(project)])
        except ConflictError as error:
            message = f"project {new.project_id} exists already"
            raise AlreadyExistsError(message) from error
        return replace(project, version=1)

    def update(self, project_id: str, changes: dict[str, Any]) -> Project:
        """Change what may be changed. The reconciler makes open incidents follow within a minute."""

        def change() -> tuple[Project, int]:
            project = self.get(project_id)
            after = replace(project, **changes)
            self._store.commit([Put(after)])
            return after, project.check_interval_minutes

        project, interval_before = until_committed(change)
        if project.check_interval_minutes < interval_before:
            for key in self._store.keys(project_id, _ALL, None).items:
                until_committed(self._make_due_sooner, project, key.key_id)
        return project

    def _make_due_sooner(self, project: Project, key_id: str) -> None:
        """A shorter interval holds from now on, not from the key's next probe."""
        key = self._store.key(project.project_id, key_id)
        if key is None:
            return
        interval = project.check_interval_minutes
        due = next_due(project.project_id, key_id, key.health, interval, self._clock.now())
        if due < key.due_at:
            self._store.commit([Put(replace(key, due_at=due))])

    def delete(self, project_id: str) -> None:
        """Remove an empty project and its topic.

        The project is marked first, so that nothing can be added while its topic goes, and a removal that
        died half-way can be repeated.

        Raises:
            RefusedError: something is left in it.
        """

        def mark() -> Project:
            project = self.get(project_id)
            keys = self._store.keys(project_id, _ALL, None).items
            clusters = self._store.clusters(project_id, _ALL, None).items
            if keys or clusters:
                raise RefusedError(
                    409,
                    "Project is not empty",
                    "Delete its clusters and keys first.",
                    in_the_way=(
                        *(f"key {key.key_id}" for key in keys),
                        *(f"cluster {cluster.cluster_id}" for cluster in clusters),
                    ),
                )
            marked = replace(project, deleting=True)
            self._store.commit([Put(marked)])
            return replace(marked, version=marked.version + 1)

        project = until_committed(mark)
        self._topics.delete(project.alert_topic_arn)
        for subscription in self._store.subscriptions(project_id, _ALL, None).items:
            self._store.commit([Remove(subscription)])
        self._store.commit([Remove(project)])


def refuse_verdict(verdict: Verdict, role_arn: str) -> RefusedError:
    """Say in the contract's fixed words why a key is not registered."""
    remediation = verdict.remediation
    commands = remediation.commands if remediation else ()
    if verdict.outcome is Outcome.UNKNOWN:
        return RefusedError(
            503,
            "No answer about the KMS key",
            f"{verdict.message} Nothing was stored; ask again.",
            cause=verdict.cause,
            retry_after_seconds=30,
        )
    cause = verdict.cause or Cause.UNCLASSIFIED
    detail = verdict.message
    if cause is Cause.ACCESS_DENIED:
        statement = commands[0] if commands else ""
        detail = f"kms:{verdict.operation} was refused to {role_arn}. Add this policy statement: {statement}"
    return RefusedError(
        422,
        _REFUSAL_TITLES.get(cause, "KMS key cannot be used"),
        detail,
        cause=cause,
        summary=remediation.summary if remediation else None,
        commands=commands,
    )


class Keys:
    """Registers, checks and removes keys. Only `check_keys` touches them; this asks it."""

    def __init__(self, store: Store, checker: KeyChecker, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._checker = checker
        self._clock = clock

    def get(self, project_id: str, key_id: str) -> Key:
        """Read a key.

        Raises:
            NotFoundError: there is none.
        """
        key = self._store.key(project_id, key_id)
        if key is None:
            message = f"key {key_id} is not registered in project {project_id}"
            raise NotFoundError(message)
        return key

    def register(self, project_id: str, key_arn: str, role_arn: str, use: KeyUse) -> Key:
        """Probe a key, and store it if it is HEALTHY.

        Raises:
            RefusedError: the request, the key or the role is not as it must be.
            AlreadyExistsError: the key is registered in this project already.
        """
        project = self._project(project_id)
        parsed = parse_kms_arn(key_arn)
        if parsed is None:
            raise RefusedError(
                400,
                "Invalid KMS key ARN format",
                f"`key_arn` must look like {ARN_FORMAT}, or {ARN_FORMAT.rsplit('key/', 1)[0]}alias/NAME.",
            )
        account = role_account(role_arn)
        if account is None:
            raise RefusedError(
                400,
                "Invalid IAM role ARN format",
                "`role_arn` must look like arn:aws:iam::ACCOUNT_ID:role/NAME.",
            )
        if parsed.kms_key_id is not None:
            self._check_room(project, parsed.key_id)
        registration = Registration(
            project_id=project_id,
            key_arn=key_arn,
            role_arn=role_arn,
            external_id=project.external_id,
            use=use,
            context=probe_context(project_id),
        )
        answer = self._checker.probe_registration(registration)
        if answer.role_checks_external_id is False:
            raise RefusedError(
                422,
                "Role does not check the ExternalId",
                f"{role_arn} can be assumed without this project's ExternalId, so anybody who knows its ARN could "
                "make KeyVigil act in that account. Add the condition to the role's trust policy.",
                cause=Cause.ROLE_NOT_ASSUMABLE,
                summary="Require the ExternalId in the role's trust policy.",
                commands=('"Condition": {"StringEquals": {"sts:ExternalId": "' + project.external_id + '"}}',),
            )
        verdict = answer.verdict
        if verdict.outcome is not Outcome.HEALTHY or answer.baseline is None or answer.key_arn is None:
            raise refuse_verdict(verdict, role_arn)
        resolved = parse_kms_arn(answer.key_arn)
        if resolved is None or resolved.kms_key_id is None:
            message = f"check_keys answered with {answer.key_arn}, which is no key ARN"
            raise CheckerUnavailableError(message)
        health = Health(healthy_streak=1, counted_at=verdict.probed_at)
        now = self._clock.now()
        key = Key(
            project_id=project_id,
            key_id=resolved.key_id,
            key_arn=resolved.arn,
            alias_arn=key_arn if parsed.alias_name is not None else None,
            region=resolved.region,
            account_id=resolved.account_id,
            role_arn=role_arn,
            external_id=project.external_id,
            use=use,
            baseline=answer.baseline,
            facts=answer.facts or KeyFacts(),
            health=health,
            verdict=verdict,
            last_probed_at=verdict.probed_at,
            last_trigger=Trigger.REGISTRATION,
            due_at=next_due(project_id, resolved.key_id, health, project.check_interval_minutes, now),
            created_at=now,
        )
        return until_committed(self._store_new, key)

    def _store_new(self, key: Key) -> Key:
        project = self._project(key.project_id)
        self._check_room(project, key.key_id)
        self._store.commit([Put(key), Put(replace(project, keys=project.keys + 1))])
        return replace(key, version=1)

    def _project(self, project_id: str) -> Project:
        project = self._store.project(project_id)
        if project is None or project.deleting:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        return project

    def _check_room(self, project: Project, key_id: str) -> None:
        if self._store.key(project.project_id, key_id) is not None:
            message = f"key {key_id} is registered in project {project.project_id} already"
            raise AlreadyExistsError(message)
        if project.keys >= MAX_KEYS_PER_PROJECT:
            raise RefusedError(
                409,
                "Too many keys in project",
                f"A project has at most {MAX_KEYS_PER_PROJECT} keys. Delete one, or register this key in another.",
            )

    def check(self, project_id: str, key_id: str) -> Key:
        """Probe a key now, through the same state machine as a scheduled probe, and read it again.

        Raises:
            NotFoundError: there is no such key.
            CheckerUnavailableError: the probe did not answer.
        """
        self.get(project_id, key_id)
        self._checker.check(project_id, key_id, Trigger.REQUEST)
        return self.get(project_id, key_id)

    def delete(self, project_id: str, key_id: str) -> None:
        """Stop watching a key that no cluster depends on.

        Raises:
            RefusedError: clusters depend on it, or an incident is open.
        """

        def remove() -> None:
            key = self.get(project_id, key_id)
            if key.clusters > 0:
                raise RefusedError(
                    409,
                    "KMS key is in use",
                    "Delete the clusters that depend on it first.",
                    in_the_way=tuple(
                        f"cluster {each.cluster_id}" for each in self._store.clusters_of_key(project_id, key_id)
                    ),
                )
            project = self._project(project_id)
            writes: list[Put | Remove] = [
                Remove(key),
                Put(replace(project, keys=max(0, project.keys - 1))),
            ]
            incident = self._store.incident(project_id, key.open_incident_id) if key.open_incident_id else None
            if incident is not None and incident.is_open:
                raise RefusedError(
                    409,
                    "KMS key has an open incident",
                    "It can be deleted when the incident is resolved.",
                    in_the_way=(f"incident {incident.incident_id}",),
                )
            self._store.commit(writes)

        until_committed(remove)


class Clusters:
    """Registers, changes and removes clusters."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock

    def get(self, project_id: str, cluster_id: str) -> Cluster:
        """Read a cluster.

        Raises:
            NotFoundError: there is none.
        """
        cluster = self._store.cluster(project_id, cluster_id)
        if cluster is None or cluster.deleted_at is not None:
            message = f"cluster {cluster_id} is not registered in project {project_id}"
            raise NotFoundError(message)
        return cluster

    def register(self, project_id: str, new: NewCluster) -> Cluster:
        """Register a cluster, in one transaction with reading its key's status (invariant 4).

        Raises:
            RefusedError: the Region is not the key's, the key is another than before, or it has 200 clusters.
            AlreadyExistsError: the same cluster is registered already.
        """
        return until_committed(self._register, project_id, new)

    def _register(self, project_id: str, new: NewCluster) -> Cluster:
        existing = self._store.cluster(project_id, new.cluster_id)
        if existing is not None and existing.deleted_at is None:
            if existing.key_id != new.key_id:
                raise _key_is_immutable(existing)
            message = f"cluster {new.cluster_id} is registered already"
            raise AlreadyExistsError(message)
        key = self._store.key(project_id, new.key_id)
        if key is None:
            message = f"key {new.key_id} is not registered in project {project_id}"
            raise NotFoundError(message)
        if new.region != key.region:
            raise RefusedError(
                409,
                "KMS key and cluster are in different Regions",
                f"The cluster is in {new.region}, the key in {key.region}. Use a key of the cluster's Region; a "
                "multi-Region key needs a replica there.",
            )
        if key.clusters >= MAX_CLUSTERS_PER_KEY:
            raise RefusedError(
                409,
                "Too many clusters under KMS key",
                f"At most {MAX_CLUSTERS_PER_KEY} clusters depend on one key.",
            )
        now = self._clock.now()
        waits = key.health.status is not KeyStatus.HEALTHY
        cluster = Cluster(
            project_id=project_id,
            cluster_id=new.cluster_id,
            name=new.name,
            kind=new.kind,
            region=new.region,
            key_id=new.key_id,
            lock=new.lock,
            status=ClusterStatus.PENDING_KEY if waits else ClusterStatus.ACTIVE,
            fence=existing.fence if existing else 0,
            status_changed_at=now,
            created_at=now,
            version=existing.version if existing else 0,
        )
        counted = replace(key, clusters=key.clusters + 1, pending_clusters=key.pending_clusters + waits)
        self._store.commit([Put(cluster), Put(counted)])
        return replace(cluster, version=cluster.version + 1)

    def update(self, project_id: str, cluster_id: str, changes: dict[str, Any]) -> Cluster:
        """Change a cluster's name, kind or lock. Its key is fixed.

        Raises:
            RefusedError: another key was named, or another lock while the cluster is locked.
        """

        def change() -> Cluster:
            cluster = self.get(project_id, cluster_id)
            if changes.get("key_id", cluster.key_id) != cluster.key_id:
                raise _key_is_immutable(cluster)
            in_use = cluster.status in {ClusterStatus.ACTIVE, ClusterStatus.PENDING_KEY}
            if changes.get("lock", cluster.lock) != cluster.lock and not in_use:
                raise RefusedError(
                    409,
                    "Cluster is locked",
                    f"The cluster is {cluster.status}: whoever locked it must unlock it, so `lock` can be changed "
                    "when it is ACTIVE again.",
                )
            after = replace(cluster, **{name: value for name, value in changes.items() if name != "key_id"})
            self._store.commit([Put(after)])
            return after

        return until_committed(change)

    def delete(self, project_id: str, cluster_id: str) -> None:
        """Forget a cluster, but keep its fence as a tombstone.

        Raises:
            RefusedError: it is locked, or a lock or unlock is under way.
        """

        def remove() -> None:
            cluster = self.get(project_id, cluster_id)
            if cluster.status not in {ClusterStatus.ACTIVE, ClusterStatus.PENDING_KEY}:
                raise RefusedError(
                    409,
                    "Cluster is locked",
                    f"The cluster is {cluster.status}; it can be deleted when it is ACTIVE again.",
                    in_the_way=(f"incident {cluster.locked_by_incident_id}",),
                )
            writes = [Put(replace(cluster, deleted_at=self._clock.now(), task_token=None, respond_by=None))]
            key = self._store.key(project_id, cluster.key_id)
            if key is not None:
                waited = cluster.status is ClusterStatus.PENDING_KEY
                counted = replace(
                    key,
                    clusters=max(0, key.clusters - 1),
                    pending_clusters=max(0, key.pending_clusters - waited),
                )
                writes.append(Put(counted))
            self._store.commit(writes)

        until_committed(remove)


def _key_is_immutable(cluster: Cluster) -> RefusedError:
    return RefusedError(
        409,
        "Cannot change AWS CSE key ARN after cluster is created",
        f"Cluster {cluster.cluster_id} was created with key {cluster.key_id}. Its data is encrypted under that key, "
        "so it keeps it for life; create a new cluster to use another.",
    )


class Subscriptions:
    """Subscribes and unsubscribes who gets a project's alerts."""

    def __init__(self, store: Store, topics: Topics, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._topics = topics
        self._clock = clock
        self._ids = ids

    def create(
        self, project_id: str, protocol: Protocol, endpoint: str, min_severity: str, types: tuple[str, ...]
    ) -> Subscription:
        """Subscribe an endpoint to a project's topic.

        Raises:
            RefusedError: the endpoint does not fit the protocol.
        """
        if not is_queue_arn(endpoint):
            raise RefusedError(
                422,
                "Invalid endpoint",
                "For protocol sqs, `endpoint` must look like arn:aws:sqs:REGION:ACCOUNT_ID:QUEUE_NAME.",
            )
        project = self._store.project(project_id)
        if project is None or project.deleting:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        wanted = Subscription(
            project_id=project_id,
            subscription_id=self._ids.ulid(),
            protocol=protocol,
            endpoint=endpoint,
            min_severity=min_severity,
            types=types,
            subscription_arn="",
            status="pending",
            created_at=self._clock.now(),
        )
        for existing in self._store.subscriptions(project_id, _ALL, None).items:
            # SNS has one subscription for an endpoint: a second row would show what the first one's end took away.
            if existing.endpoint == endpoint:
                message = f"a subscription for this endpoint exists already, {existing.subscription_id}"
                raise AlreadyExistsError(message)
        arn, status = self._topics.subscribe(project.alert_topic_arn, wanted)
        subscription = replace(wanted, subscription_arn=arn, status=status)
        self._store.commit([Put(subscription)])
        return subscription

    def delete(self, project_id: str, subscription_id: str) -> None:
        """End a subscription.

        Raises:
            NotFoundError: there is none.
        """
        subscription = self._store.subscription(project_id, subscription_id)
        if subscription is None:
            message = f"subscription {subscription_id} does not exist in project {project_id}"
            raise NotFoundError(message)
        self._topics.unsubscribe(subscription.subscription_arn)
        self._store.commit([Remove(subscription)])
