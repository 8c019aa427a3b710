"""The registry: projects, keys, clusters and subscriptions, as the API sees them."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from keyvigil.domain.arns import (
    KmsArn,
    is_named_for_customers,
    parse_kms_arn,
    parse_secret_arn,
    role_account,
    role_name,
    secret_prefix,
)
from keyvigil.domain.aws_commands import trust_again
from keyvigil.domain.backups import BACKUPS_NAMED
from keyvigil.domain.clusters import Cluster, ClusterKind, ClusterStatus, LockSettings, next_fence
from keyvigil.domain.endpoints import endpoint_problem
from keyvigil.domain.incidents import IncidentStatus
from keyvigil.domain.key_events import pointers_to
from keyvigil.domain.keys import (
    REBASELINES_KEPT,
    TROUBLED_AFTER,
    Baseline,
    Health,
    Key,
    KeyFacts,
    KeyStatus,
    KeyUse,
    Rebaseline,
    Registration,
    RoleClaim,
    Trigger,
    next_due,
    probe_context,
)
from keyvigil.domain.lock_settings import LockBounds, lock_problem
from keyvigil.domain.projects import (
    MAX_CLUSTERS_PER_KEY,
    MAX_KEYS_PER_PROJECT,
    MAX_SUBSCRIPTIONS_PER_PROJECT,
    Approval,
    Enforcement,
    Project,
    Protocol,
    Subscription,
)
from keyvigil.domain.role_claims import counted, released, role_of
from keyvigil.domain.verdicts import Cause, Outcome, Verdict
from keyvigil.errors import (
    AlreadyExistsError,
    CheckerUnavailableError,
    ConflictError,
    DeliveryError,
    NotFoundError,
    RefusedError,
)
from keyvigil.ports import (
    Clock,
    Ids,
    KeyChecker,
    Page,
    Put,
    RegistrationAnswer,
    Remove,
    Store,
    Topics,
    ValidationAnswer,
    Write,
)
from keyvigil.use_cases.audit_roles import PROJECTS_A_REQUEST, AuditRoles
from keyvigil.use_cases.read_fleet import every
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling

ARN_FORMAT = "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID"
IN_THE_WAY_SHOWN = 100
"""How many things of each kind a refusal lists that are in the way of a deletion."""

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
    chat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCluster:
    """A cluster as its owner asks for it."""

    cluster_id: str
    name: str
    kind: ClusterKind
    region: str
    key_id: str
    lock: LockSettings


_DECIDES_LOCKOUTS = ("enforcement", "approval", "grace_minutes")


class Projects:
    """Makes, changes and removes projects, each with its topic, and one for chat channels if that is asked for."""

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
            chat=new.chat,
        )
        if new.chat:
            self._topics.create_for_chat(new.project_id)
        try:
            self._store.commit([Put(project)])
        except ConflictError as error:
            message = f"project {new.project_id} exists already"
            raise AlreadyExistsError(message) from error
        return replace(project, version=1)

    def update(self, project_id: str, changes: dict[str, Any], *, by: str = "somebody") -> Project:
        """Change what may be changed. The reconciler makes open incidents follow within a minute.

        What decides about lockouts stands in the timelines of the project's open incidents too, with who changed it.
        A topic for chat channels is made before the project says that it is there, and goes after it says that it
        is not: what dies in between is mended by asking again.
        """
        made = None
        if changes.get("chat"):
            self.get(project_id)
            made = self._topics.create_for_chat(project_id)

        def change() -> tuple[Project, int]:
            project = self.get(project_id)
            after = replace(project, **changes)
            self._store.commit([Put(after), *self._told_to_incidents(project, after, by)])
            return after, project.check_interval_minutes

        try:
            project, interval_before = until_committed(change)
        except NotFoundError:
            if made is not None:
                self._topics.delete(made)
            raise
        if changes.get("chat") is False:
            self._topics.delete(project.chat_topic_arn)
        if project.check_interval_minutes < interval_before:
            for key in every(lambda limit, token: self._store.keys(project_id, limit, token)):
                until_committed(self._make_due_sooner, project, key.key_id)
        return project

    def _told_to_incidents(self, before: Project, after: Project, by: str) -> list[Write]:
        """An entry for each key's open incident, of which a project has as many as keys at most."""
        changed = [
            f"{name} from {getattr(before, name)} to {getattr(after, name)}"
            for name in _DECIDES_LOCKOUTS
            if getattr(before, name) != getattr(after, name)
        ]
        if not changed:
            return []
        detail = f"{by} changed the project's {', '.join(changed)}"
        keys = every(lambda limit, token: self._store.keys(before.project_id, limit, token))
        telling = Telling(self._clock, self._ids)
        return [
            telling.entry(key.open_incident_id, "project.changed", detail)
            for key in keys
            if key.open_incident_id is not None
        ]

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
        """Remove an empty project and its topics.

        The project is marked first, so that nothing can be added while its topic goes, and a removal that
        died half-way can be repeated.

        Raises:
            RefusedError: something is left in it.
        """

        def mark() -> Project:
            project = self.get(project_id)
            keys = self._store.keys(project_id, IN_THE_WAY_SHOWN, None).items
            clusters = self._store.clusters(project_id, IN_THE_WAY_SHOWN, None).items
            backups = self._store.backups(project_id, BACKUPS_NAMED, None).items
            if keys or clusters or backups:
                raise RefusedError(
                    409,
                    "Project is not empty",
                    "Delete its backups, clusters and keys first.",
                    in_the_way=(
                        *(f"key {key.key_id}" for key in keys),
                        *(f"cluster {cluster.cluster_id}" for cluster in clusters),
                        *(f"backup {backup.backup_id}" for backup in backups),
                    ),
                )
            marked = replace(project, deleting=True)
            self._store.commit([Put(marked)])
            return replace(marked, version=marked.version + 1)

        project = until_committed(mark)
        self._topics.delete(project.alert_topic_arn)
        self._topics.delete(project.chat_topic_arn)
        for subscription in list(every(lambda limit, token: self._store.subscriptions(project_id, limit, token))):
            self._store.commit([Remove(subscription)])
        silences = self._store.silences(project_id)
        if silences.version:
            # A later project of the same id must not inherit them.
            self._store.commit([Remove(silences)])
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
        detail = f"kms:{verdict.operation} was refused to {role_arn}."
        statement = remediation.statement if remediation else None
        refused_by = verdict.permission.refused_by if verdict.permission else None
        if statement is not None:
            detail = f"{detail} Add this policy statement: {statement}"
        if statement is not None and refused_by is not None and refused_by.explicit:
            detail = (
                f"kms:{verdict.operation} was refused to {role_arn}: a {refused_by.policy} denies it, which outweighs "
                f"every permission. Once that is gone, this policy statement lets the role in: {statement}"
            )
    return RefusedError(
        422,
        _REFUSAL_TITLES.get(cause, "KMS key cannot be used"),
        detail,
        cause=cause,
        summary=remediation.summary if remediation else None,
        commands=commands,
    )


def role_without_external_id(role_arn: str, external_id: str, monitor_role_arn: str) -> RefusedError:
    """Say that a role lets in whoever makes KeyVigil ask."""
    return RefusedError(
        422,
        "Role does not check the ExternalId",
        f"{role_arn} can be assumed without this project's ExternalId, so anybody who knows its ARN could "
        "make KeyVigil act in that account. Add the condition to the role's trust policy.",
        cause=Cause.ROLE_NOT_ASSUMABLE,
        summary="Require the ExternalId in the role's trust policy.",
        commands=(trust_again(role_arn, monitor_role_arn, external_id),),
    )


def invalid_key_arn(*, aliases: bool = False) -> RefusedError:
    """Say what a key's ARN looks like."""
    alias = f", or {ARN_FORMAT.rsplit('key/', 1)[0]}alias/NAME" if aliases else ""
    return RefusedError(400, "Invalid KMS key ARN format", f"`key_arn` must look like {ARN_FORMAT}{alias}.")


def invalid_role_arn() -> RefusedError:
    """Say what a role's ARN looks like."""
    return RefusedError(
        400, "Invalid IAM role ARN format", "`role_arn` must look like arn:aws:iam::ACCOUNT_ID:role/NAME."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A key as its owner asks for it: to register it, or only to try it."""

    key_arn: str
    role_arn: str
    use: KeyUse
    probe_secret_arn: str | None = None


class Keys:
    """Registers, checks, changes and removes keys. Only `check_keys` touches them; this asks it."""

    def __init__(
        self, store: Store, checker: KeyChecker, clock: Clock, *, own_account: str, monitor_role_arn: str
    ) -> None:
        """Keep the ports. `own_account` is the account that KeyVigil itself runs in, the role is what probes keys."""
        self._store = store
        self._checker = checker
        self._clock = clock
        self._own_account = own_account
        self._audit = AuditRoles(store, clock, at_once=PROJECTS_A_REQUEST)
        self._monitor_role_arn = monitor_role_arn

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

    def register(self, project_id: str, wanted: KeyRequest) -> Key:
        """Probe a key, and store it if it is HEALTHY.

        Raises:
            RefusedError: the request, the key or the role is not as it must be.
            AlreadyExistsError: the key is registered in this project already.
        """
        project = self._project(project_id)
        parsed = self._check_request(project_id, wanted)
        if parsed.kms_key_id is not None:
            self._check_room(project, parsed.key_id)
        answer = self._probe(project, wanted)
        verdict = answer.verdict
        if answer.baseline is None or answer.key_arn is None:
            raise refuse_verdict(verdict, wanted.role_arn)
        resolved = parse_kms_arn(answer.key_arn)
        if resolved is None or resolved.kms_key_id is None:
            message = f"check_keys answered with {answer.key_arn}, which is no key ARN"
            raise CheckerUnavailableError(message)
        self._check_role(resolved, wanted.role_arn)
        health = Health(healthy_streak=1, counted_at=verdict.probed_at)
        now = self._clock.now()
        key = Key(
            project_id=project_id,
            key_id=resolved.key_id,
            key_arn=resolved.arn,
            alias_arn=wanted.key_arn if parsed.alias_name is not None else None,
            region=resolved.region,
            account_id=resolved.account_id,
            role_arn=wanted.role_arn,
            external_id=project.external_id,
            use=wanted.use,
            baseline=answer.baseline,
            facts=answer.facts or KeyFacts(),
            health=health,
            verdict=verdict,
            last_probed_at=verdict.probed_at,
            last_trigger=Trigger.REGISTRATION,
            probe_secret_arn=wanted.probe_secret_arn,
            due_at=next_due(project_id, resolved.key_id, health, project.check_interval_minutes, now),
            created_at=now,
        )
        return until_committed(self._store_new, key)

    def validate(self, project_id: str, wanted: KeyRequest) -> ValidationAnswer:
        """Try a key as a registration would, and each operation by itself. Nothing is stored.

        Raises:
            RefusedError: the request or the role is not as it must be; the key's own state is in the answer.
        """
        project = self._project(project_id)
        self._check_request(project_id, wanted)
        answer = self._checker.validate_key(_registration(project, wanted))
        if answer.role_checks_external_id is False:
            raise role_without_external_id(wanted.role_arn, project.external_id, self._monitor_role_arn)
        return answer

    def update(
        self,
        project_id: str,
        key_id: str,
        *,
        role_arn: str | None = None,
        use: KeyUse | None = None,
        probe_secret_arn: str | None = None,
    ) -> Key:
        """Change a key's role, use or secret, if the key is HEALTHY that way.

        The registration ciphertext must open with the new role too. A use other than `kes` drops the secret. What
        the probe found does not touch the key's status: the next sweep probes the key the new way, through the same
        state machine as ever.

        Raises:
            RefusedError: the role or the key is not as it must be.
            NotFoundError: there is no such key.
        """
        project, key = self._project(project_id), self.get(project_id, key_id)
        new_use = use or key.use
        secret_arn = probe_secret_arn or (key.probe_secret_arn if new_use is KeyUse.KES else None)
        wanted = KeyRequest(
            key_arn=key.key_arn, role_arn=role_arn or key.role_arn, use=new_use, probe_secret_arn=secret_arn
        )
        if wanted == _as_requested(key):
            return key
        # A role that stays was agreed on before; it may be one that projects share from of old.
        stays = role_name(wanted.role_arn).lower() == role_name(key.role_arn).lower()
        self._check_request(project_id, wanted, claimed=stays)
        self._probe(project, wanted, key.baseline)

        def store() -> Key:
            current = self.get(project_id, key_id)
            changed = replace(
                current,
                role_arn=wanted.role_arn,
                use=wanted.use,
                probe_secret_arn=wanted.probe_secret_arn,
                due_at=min(current.due_at, self._clock.now() + TROUBLED_AFTER),
            )
            writes: list[Write] = [Put(changed)]
            if changed.role_arn != current.role_arn:
                writes += [*self._move_claim(current, changed), *self._move_pointers(current, changed)]
            self._store.commit(writes)
            return replace(changed, version=changed.version + 1)

        return until_committed(store)

    def rebaseline(self, project_id: str, key_id: str, *, reason: str, by: str) -> Key:
        """Make a new registration ciphertext, and keep who wanted that, when and why.

        Raises:
            RefusedError: an incident is open (what no longer opens is then what it is about), or the key is not
                HEALTHY.
            NotFoundError: there is no such key.
        """
        project, key = self._project(project_id), self.get(project_id, key_id)
        self._refuse_open_incident(key)
        answer = self._probe(project, _as_requested(key))
        baseline = answer.baseline
        if baseline is None:
            raise refuse_verdict(answer.verdict, key.role_arn)

        def store() -> Key:
            current = self.get(project_id, key_id)
            self._refuse_open_incident(current)
            entry = Rebaseline(at=self._clock.now(), by=by, reason=reason)
            kept = (*current.rebaselines, entry)[-REBASELINES_KEPT:]
            changed = replace(current, baseline=baseline, rebaselines=kept)
            self._store.commit([Put(changed)])
            return replace(changed, version=changed.version + 1)

        return until_committed(store)

    def _refuse_open_incident(self, key: Key) -> None:
        incident = self._store.incident(key.project_id, key.open_incident_id) if key.open_incident_id else None
        if incident is not None and incident.is_open:
            raise RefusedError(
                409,
                "KMS key has an open incident",
                "The old ciphertext is what shows whether the clusters' data still opens, so it is not replaced while "
                "an incident is open.",
                in_the_way=(f"incident {incident.incident_id}",),
            )

    def _check_request(self, project_id: str, wanted: KeyRequest, *, claimed: bool = False) -> KmsArn:
        """Refuse what can be refused before AWS is asked. A role that is `claimed` need not be free."""
        parsed = parse_kms_arn(wanted.key_arn)
        if parsed is None:
            raise invalid_key_arn(aliases=True)
        self._check_role(parsed, wanted.role_arn)
        _check_secret(project_id, parsed, wanted)
        if not claimed:
            self._check_claim(project_id, wanted.role_arn)
        return parsed

    def _check_role(self, key_arn: KmsArn, role_arn: str) -> None:
        """Refuse a role that would let a tenant act as somebody else (the confused deputy).

        Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html
        """
        account = role_account(role_arn)
        if account is None:
            raise invalid_role_arn()
        if account != key_arn.account_id:
            raise RefusedError(
                422,
                "KMS key and role are in different accounts",
                f"The key is in account {key_arn.account_id}, the role in {account}. Make the role in the key's "
                "account.",
            )
        if account == self._own_account and not is_named_for_customers(role_arn):
            raise RefusedError(
                422,
                "Role in KeyVigil's own account is not for customers",
                "In the account that KeyVigil runs in, only a role whose name begins with `keyvigil-customer-` can "
                "be registered.",
            )

    def _check_claim(self, project_id: str, role_arn: str) -> None:
        """Refuse a role that serves another project, or of which that is not known yet."""
        account, name = role_account(role_arn) or "", role_name(role_arn)
        claim = self._store.role_claim(account, name)
        if claim is None and not self._audit.finished():
            raise RefusedError(
                503,
                "Roles are being counted",
                "KeyVigil was upgraded and is finding out which roles its keys use. Nothing was stored; ask again.",
                retry_after_seconds=60,
            )
        self._refuse_foreign_claim(project_id, claim or self._store.role_claim(account, name))

    @staticmethod
    def _refuse_foreign_claim(project_id: str, claim: RoleClaim | None) -> None:
        if claim is not None and claim.project_id != project_id:
            # Which project it is stays unsaid: it is another tenant's.
            raise RefusedError(
                409,
                "Role serves another project",
                "One role serves one project: with another project's role its keys could be reached from here. Make "
                "a role for this project, with this project's ExternalId.",
            )

    def _claim(self, key: Key) -> Write:
        """The role's claim with one key more."""
        claim = self._store.role_claim(*role_of(key))
        self._refuse_foreign_claim(key.project_id, claim)
        if claim is not None:
            return Put(replace(claim, keys=claim.keys + 1))
        return Put(counted(None, [key]))

    def _release(self, key: Key) -> list[Write]:
        """The role's claim with one key less; the last one takes the claim with it."""
        claim = self._store.role_claim(*role_of(key))
        after = released(claim, key.project_id) if claim is not None else None
        if claim is None or after == claim:
            return []
        return [Put(after) if after is not None else Remove(claim)]

    def _move_claim(self, before: Key, after: Key) -> list[Write]:
        if role_of(before) == role_of(after):
            return []
        return [*self._release(before), self._claim(after)]

    def _move_pointers(self, before: Key | None, after: Key | None) -> list[Write]:
        """Lead the events that concern a key to it, and away from where it was. Older code left some out."""
        old = set(pointers_to(before)) if before is not None else set()
        new = set(pointers_to(after)) if after is not None else set()
        gone = [self._store.pointer(each) for each in sorted(old - new, key=lambda each: each.resource)]
        made = [each for each in sorted(new - old, key=lambda each: each.resource) if not self._store.pointer(each)]
        return [*(Remove(each) for each in gone if each is not None), *(Put(each) for each in made)]

    def _probe(self, project: Project, wanted: KeyRequest, baseline: Baseline | None = None) -> RegistrationAnswer:
        """Probe a key and its role as they are to be registered.

        Raises:
            RefusedError: the role does not check the ExternalId, or the verdict is not HEALTHY.
        """
        answer = self._checker.probe_registration(_registration(project, wanted, baseline))
        if answer.role_checks_external_id is False:
            raise role_without_external_id(wanted.role_arn, project.external_id, self._monitor_role_arn)
        if answer.verdict.outcome is not Outcome.HEALTHY:
            raise refuse_verdict(answer.verdict, wanted.role_arn)
        return answer

    def _store_new(self, key: Key) -> Key:
        project = self._project(key.project_id)
        self._check_room(project, key.key_id)
        counted = Put(replace(project, keys=project.keys + 1))
        self._store.commit([Put(key), counted, self._claim(key), *self._move_pointers(None, key)])
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
        """Stop watching a key that no cluster and no backup needs.

        A key that was destroyed never recovers, so an open incident that a person dismissed is no obstacle: reconciling
        ends it when its key is gone.

        Raises:
            RefusedError: clusters or backups need it, or an incident is open that nobody dismissed.
        """

        def remove() -> None:
            key = self.get(project_id, key_id)
            if key.clusters > 0 or key.backups:
                backups = self._store.backups_of_key(project_id, key_id, BACKUPS_NAMED) if key.backups else []
                raise RefusedError(
                    409,
                    "KMS key is in use",
                    "Delete the clusters and backups that depend on it first.",
                    in_the_way=(
                        *(f"cluster {each.cluster_id}" for each in self._store.clusters_of_key(project_id, key_id)),
                        *(f"backup {each.backup_id}" for each in backups),
                    ),
                )
            project = self._project(project_id)
            writes: list[Write] = [
                Remove(key),
                Put(replace(project, keys=max(0, project.keys - 1))),
                *self._release(key),
                *self._move_pointers(key, None),
            ]
            incident = self._store.incident(project_id, key.open_incident_id) if key.open_incident_id else None
            if incident is not None and incident.is_open and incident.status is not IncidentStatus.DISMISSED:
                raise RefusedError(
                    409,
                    "KMS key has an open incident",
                    "It can be deleted when the incident is resolved. If the key will never work again, dismiss the "
                    "incident first.",
                    in_the_way=(f"incident {incident.incident_id}",),
                )
            self._store.commit(writes)

        until_committed(remove)


def _as_requested(key: Key) -> KeyRequest:
    """A registered key as its owner would ask for it again."""
    return KeyRequest(key_arn=key.key_arn, role_arn=key.role_arn, use=key.use, probe_secret_arn=key.probe_secret_arn)


def _check_secret(project_id: str, key_arn: KmsArn, wanted: KeyRequest) -> None:
    """Refuse a secret that is not the project's own: its name, account and Region bound what a tenant may name.

    A key's secret lies in the key's account and Region, because only there can it be encrypted under that key:
    https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html
    """
    if (wanted.use is KeyUse.KES) is not (wanted.probe_secret_arn is not None):
        raise RefusedError(
            422,
            "Invalid request",
            "A key with use `kes` needs `probe_secret_arn`, the ARN of one secret made for the probe, and no other use "
            "takes one.",
            field="probe_secret_arn",
        )
    if wanted.probe_secret_arn is None:
        return
    secret, prefix = parse_secret_arn(wanted.probe_secret_arn), secret_prefix(project_id)
    if secret is None:
        raise RefusedError(
            400,
            "Invalid secret ARN format",
            "`probe_secret_arn` must be the whole ARN, like "
            f"arn:aws:secretsmanager:REGION:ACCOUNT_ID:secret:{prefix}NAME-RANDOM.",
        )
    if (secret.account_id, secret.region) != (key_arn.account_id, key_arn.region):
        raise RefusedError(
            422,
            "KMS key and secret are in different places",
            f"The key is in account {key_arn.account_id}, Region {key_arn.region}; the secret in {secret.account_id}, "
            f"{secret.region}. Make the secret beside the key, encrypted under it.",
        )
    if not secret.name.startswith(prefix):
        raise RefusedError(
            422,
            "Secret is not made for this project's probe",
            f"The name of the secret must begin with `{prefix}`. Make one for the probe, with nothing secret in it.",
        )


def _registration(project: Project, wanted: KeyRequest, baseline: Baseline | None = None) -> Registration:
    return Registration(
        project_id=project.project_id,
        key_arn=wanted.key_arn,
        role_arn=wanted.role_arn,
        external_id=project.external_id,
        use=wanted.use,
        context=probe_context(project.project_id),
        baseline=baseline,
        probe_secret_arn=wanted.probe_secret_arn,
    )


_LOCK_MAY_CHANGE = frozenset(
    {ClusterStatus.ACTIVE, ClusterStatus.PENDING_KEY, ClusterStatus.LOCK_FAILED, ClusterStatus.UNLOCK_FAILED}
)
"""Not while a request is under way, nor while somebody holds the lock. Where it failed, mending `lock` may help."""


class Clusters:
    """Registers, changes and removes clusters."""

    def __init__(self, store: Store, clock: Clock, bounds: LockBounds | None = None) -> None:
        """Keep the ports, and what tenants may name; without it neither secrets nor runbooks."""
        self._store = store
        self._clock = clock
        self._bounds = bounds or LockBounds()

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
            RefusedError: the Region is not the key's, the key is another than before, or it has 200 clusters; or
                what `lock` names is not the tenant's to name.
            AlreadyExistsError: the same cluster is registered already.
        """
        self._check_lock(project_id, new.lock)
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
            RefusedError: another key was named, another lock while the cluster is locked, or a lock with something
                that is not the tenant's to name.
        """
        if "lock" in changes:
            self._check_lock(project_id, changes["lock"])

        def change() -> Cluster:
            cluster = self.get(project_id, cluster_id)
            if changes.get("key_id", cluster.key_id) != cluster.key_id:
                raise _key_is_immutable(cluster)
            if changes.get("lock", cluster.lock) != cluster.lock and cluster.status not in _LOCK_MAY_CHANGE:
                raise RefusedError(
                    409,
                    "Cluster is locked",
                    f"The cluster is {cluster.status}: whoever locked it must unlock it, so `lock` can be changed "
                    "when it is ACTIVE again, or if locking or unlocking it failed.",
                )
            after = replace(cluster, **{name: value for name, value in changes.items() if name != "key_id"})
            if after.lock != cluster.lock and cluster.fence > 0:
                # What the receiver before may still answer, or be called for, is no word of the one now.
                after = replace(after, fence=next_fence(cluster.fence, self._clock.now()), receipt=None)
            self._store.commit([Put(after)])
            return after

        return until_committed(change)

    def _check_lock(self, project_id: str, lock: LockSettings) -> None:
        problem = lock_problem(lock, project_id, self._bounds)
        if problem is not None:
            raise RefusedError(422, "Invalid lock", problem)

    def delete(self, project_id: str, cluster_id: str) -> None:
        """Forget a cluster, but keep its fence as a tombstone; one that was never asked for anything has none.

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
            tombstone = replace(cluster, deleted_at=self._clock.now(), task_token=None, respond_by=None)
            # Clusters that come and go without an outage would else slow down all that reads a project's, for ever.
            writes: list[Write] = [Put(tombstone) if cluster.fence > 0 else Remove(cluster)]
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
            RefusedError: the endpoint does not fit the protocol, or the project has too many.
        """
        wrong = endpoint_problem(protocol, endpoint)
        if wrong is not None:
            raise RefusedError(422, "Invalid endpoint", wrong)
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
        present = list(every(lambda limit, token: self._store.subscriptions(project_id, limit, token)))
        for existing in present:
            # SNS has one subscription for an endpoint: a second row would show what the first one's end took away.
            if existing.endpoint == endpoint:
                message = f"a subscription for this endpoint exists already, {existing.subscription_id}"
                raise AlreadyExistsError(message)
        # Not in one transaction with writing it: requests at the same moment may pass by a few, up to SNS's own bound.
        if len(present) >= MAX_SUBSCRIPTIONS_PER_PROJECT:
            raise RefusedError(
                409,
                "Too many subscriptions in project",
                f"A project has at most {MAX_SUBSCRIPTIONS_PER_PROJECT} subscriptions. Delete one first.",
            )
        arn, status = self._topics.subscribe(project.alert_topic_arn, wanted)
        dead_letters = self._topics.dead_letters_arn
        subscription = replace(wanted, subscription_arn=arn, status=status, dead_letters_arn=dead_letters)
        try:
            until_committed(self._keep, subscription, project)
        except NotFoundError:
            with suppress(RefusedError):  # one that was never confirmed gets nothing, and SNS forgets it
                self._topics.unsubscribe(arn)
            raise
        return subscription

    def _keep(self, subscription: Subscription, project: Project) -> None:
        """Store a subscription in one transaction with its project.

        While SNS was asked, the project may have gone, and another one have come with its id and so with its topic.
        """
        now = self._store.project(project.project_id)
        if now is None or now.deleting or now.created_at != project.created_at:
            message = f"project {project.project_id} does not exist"
            raise NotFoundError(message)
        self._store.commit([Put(subscription), Put(now)])

    def get(self, project_id: str, subscription_id: str) -> Subscription:
        """Read a subscription.

        Raises:
            NotFoundError: there is none.
        """
        subscription = self._store.subscription(project_id, subscription_id)
        if subscription is None:
            message = f"subscription {subscription_id} does not exist in project {project_id}"
            raise NotFoundError(message)
        return subscription

    def page(self, project_id: str, limit: int, token: str | None) -> Page[Subscription]:
        """List a project's subscriptions. Those that were pending are asked about: SNS does not tell of itself."""
        found = self._store.subscriptions(project_id, limit, token)
        return Page(tuple(self._refreshed(each) for each in found.items), found.next_token)

    def _refreshed(self, subscription: Subscription) -> Subscription:
        if subscription.status == "confirmed":
            return subscription
        status = self._topics.subscription_status(subscription.subscription_arn)
        if status == subscription.status:
            return subscription
        after = replace(subscription, status=status)
        try:
            self._store.commit([Put(after)])
        except ConflictError:  # another reader was faster with the same news
            return after
        return replace(after, version=after.version + 1)

    def send_test(self, project_id: str, subscription_id: str) -> tuple[Subscription, str]:
        """Send a test message to one subscription; return it and the message's `alert_id`.

        Raises:
            NotFoundError: there is no such subscription.
            RefusedError: it is not confirmed, so that nothing would reach it, or SNS did not take the message.
        """
        project = self._store.project(project_id)
        subscription = self._refreshed(self.get(project_id, subscription_id))
        if project is None or subscription.status != "confirmed":
            raise RefusedError(
                409,
                "Subscription is not confirmed",
                f"The subscription is {subscription.status}, so SNS sends it nothing. Its endpoint must confirm it "
                "first; if it is gone, subscribe again.",
            )
        alert_id = self._ids.ulid()
        try:
            self._topics.send_test(project.alert_topic_arn, subscription, alert_id, self._clock.now())
        except DeliveryError as error:
            raise RefusedError(
                503, "Test message not sent", "SNS did not take the message; ask again.", retry_after_seconds=5
            ) from error
        return subscription, alert_id

    def delete(self, project_id: str, subscription_id: str) -> None:
        """End a subscription.

        Raises:
            NotFoundError: there is none.
        """
        subscription = self.get(project_id, subscription_id)
        self._topics.unsubscribe(subscription.subscription_arn)
        self._store.commit([Remove(subscription)])
