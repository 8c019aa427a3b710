"""From what files say to what is registered: what is there already is used, what is refused is told, nothing twice."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from keyvigil.domain.arns import role_account
from keyvigil_cli.api_client import ApiProblemError, ApiUnreachableError, JsonObject
from keyvigil_cli.command_line import Run, given
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.imports.found import Dependent, Found, LeftOut, Why, strongest_use
from keyvigil_cli.imports.kms_names import account_of, region_of
from keyvigil_cli.printable import printable

_LONGEST_NAME = 120  # characters, the API's bound
_KEY_ID_IN_WORDS = re.compile(r"\b([a-z0-9-]{9,25}\.[a-z0-9-]{36})\b")
_FIXED = "Cannot change AWS CSE key ARN after cluster is created"
"""The contract's words for another key under a cluster that is there."""
_STRONGER = frozenset({("cmek", "cse"), ("service", "cse")})
"""Uses whose probe tries less than another: DescribeKey, Encrypt and Decrypt, and not GenerateDataKey."""


class Outcome(StrEnum):
    """What became of one line of the table."""

    WOULD_REGISTER = "would register"
    REGISTERED = "registered"
    THERE = "there already"
    REFUSED = "refused"
    LATER = "later"
    NOT_WATCHABLE = "not watchable"
    UNKNOWN = "unknown"
    """The API or AWS gave no answer."""


type _MakeLine = Callable[..., Line]

_OF_WHY = {Why.REFUSED: Outcome.REFUSED, Why.LATER: Outcome.LATER, Why.NOT_WATCHABLE: Outcome.NOT_WATCHABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing, and what became of it. `status` is what it adds to the command's exit status."""

    what: str
    outcome: Outcome
    id: str = ""
    key: str = ""
    addresses: tuple[str, ...] = ()
    reason: str = ""
    to_do: tuple[str, ...] = ()
    status: ExitStatus = ExitStatus.FINE

    def as_plain(self) -> JsonObject:
        """Return it as JSON has it."""
        return {
            "what": self.what,
            "outcome": self.outcome.value,
            "id": self.id or None,
            "key": self.key or None,
            "from": list(self.addresses),
            "reason": self.reason or None,
            "to_do": list(self.to_do),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the person said: into which project, with which roles, and how clusters are locked.

    `project_id` may be missing in a dry run: then nothing is compared with what is registered. `again` is what to do
    once there is a role.
    """

    project_id: str | None
    role_arns: Sequence[str] = ()
    probe_secret_arn: str | None = None
    lock_via: str = "none"
    dry_run: bool = False
    again: str = "import again with --role"

    def role_for(self, key_arn: str) -> str | None:
        """The role in the account of a key."""
        account = account_of(key_arn)
        return next((each for each in self.role_arns if role_account(each) == account), None)


@dataclass
class Registering:
    """One import."""

    run: Run
    wanted: Wanted
    lines: list[Line] = field(default_factory=list)
    project: JsonObject | None = None
    project_is_new: bool = False

    def carry_out(self, found: Found) -> ExitStatus:
        """Register what was found, or in a dry run find out what would be; return the exit status."""
        self.lines += [_line_of(each) for each in found.left_out]
        if found.dependents and self.wanted.project_id is not None:
            self._find_project(self.wanted.project_id)
        keys, clusters = self._there()
        for arn, dependents in _by_key(found.dependents).items():
            self._take(arn, dependents, keys, clusters)
        return ExitStatus.worst(*(each.status for each in self.lines))

    # --- what is there

    def _find_project(self, project_id: str) -> None:
        try:
            self.project = self.run.api.get("projects", project_id)
        except ApiProblemError as error:
            if error.status != HTTPStatus.NOT_FOUND or not error.written_by_keyvigil:
                raise
        if self.project is not None:
            return
        self.project_is_new = True
        if self.wanted.dry_run:
            self.lines.append(Line(what="project", outcome=Outcome.WOULD_REGISTER, id=project_id))
            return
        body = {"project_id": project_id, "name": project_id}
        self.project = self.run.create(f"making project {project_id}", "projects", body=body)
        self.lines.append(
            Line(
                what="project", outcome=Outcome.REGISTERED, id=project_id,
                reason=f"its ExternalId is {self.project['external_id']}",
            )
        )  # fmt: skip

    def _there(self) -> "tuple[dict[str, JsonObject], dict[str, JsonObject]]":
        """The keys by their ARNs and those of their aliases, and the clusters by their ids."""
        if self.project is None or self.project_is_new:
            return {}, {}
        segments = ("projects", str(self.project["project_id"]))
        keys: dict[str, JsonObject] = {}
        for key in self.run.each("reading keys", *segments, "keys"):
            keys[key["key_arn"]] = key
            if key["alias_arn"]:
                keys.setdefault(key["alias_arn"], key)
        clusters = {each["cluster_id"]: each for each in self.run.each("reading clusters", *segments, "clusters")}
        return keys, clusters

    # --- keys

    def _take(
        self, arn: str, dependents: Sequence[Dependent], keys: dict[str, JsonObject], clusters: Mapping[str, JsonObject]
    ) -> None:
        use = strongest_use(each.use for each in dependents)
        line, key_id = self._key(arn, use, dependents, keys)
        self.lines.append(line)
        for each in dependents:
            if each.cluster_id is not None:
                self.lines.append(self._cluster(each, each.cluster_id, line, key_id, clusters))

    def _key(
        self, arn: str, use: str, dependents: Sequence[Dependent], keys: dict[str, JsonObject]
    ) -> tuple[Line, str | None]:
        addresses = tuple(dict.fromkeys(each.address for each in dependents))

        def line(outcome: Outcome, **more: Any) -> Line:
            return Line(what="key", outcome=outcome, key=arn, addresses=addresses, **more)

        if arn in keys:
            return self._of_registered(line, keys[arn], use), keys[arn]["key_id"]
        unready = self._not_ready(arn, use)
        if unready is not None:
            reason, to_do = unready
            if self.wanted.dry_run and self.wanted.project_id is None:
                return line(Outcome.WOULD_REGISTER, reason=f"as {use}; not tried: no --project was given"), None
            return line(Outcome.REFUSED, reason=reason, to_do=to_do, status=ExitStatus.ERROR), None
        body = given(
            key_arn=arn, role_arn=self.wanted.role_for(arn), use=use,
            probe_secret_arn=self.wanted.probe_secret_arn if use == "kes" else None,
        )  # fmt: skip
        try:
            if self.wanted.dry_run:
                return self._tried(line, body), None
            made = self.run.create(f"probing {arn}", *self._path("keys"), body=body)
        except (ApiProblemError, ApiUnreachableError) as error:
            there = self._registered_meanwhile(error)
            if there is None:
                return _refused(line, error), None
            keys[arn] = there
            return self._of_registered(line, there, use), there["key_id"]
        keys[arn] = keys[made["key_arn"]] = made
        return line(Outcome.REGISTERED, id=made["key_id"], reason=f"{made['status']}, as {use}"), made["key_id"]

    def _of_registered(self, line: _MakeLine, key: JsonObject, use: str) -> Line:
        """A key that is registered stays as it is; what its probe does not try is told."""
        weaker = (key["use"], use) in _STRONGER or (use == "kes" and key["use"] != "kes")
        to_do = f"keyvigil key update {self.wanted.project_id} {key['key_id']} --use {use}"
        return line(
            Outcome.THERE,
            id=key["key_id"],
            reason=f"{key['status']}, as {key['use']}"
            + (f", whose probe tries less than {use} needs" if weaker else ""),
            to_do=(to_do + (" --probe-secret-arn ARN" if use == "kes" else ""),) if weaker else (),
        )

    def _tried(self, line: _MakeLine, body: JsonObject) -> Line:
        """Try a key as its registration would; nothing is stored."""
        with self.run.working(f"trying {body['key_arn']}"):
            answer = self.run.api.post(*self._path("key-validations"), body=body)
        verdict = answer["verdict"]
        if verdict["outcome"] == "HEALTHY":
            return line(Outcome.WOULD_REGISTER, reason=f"HEALTHY, as {body['use']}")
        remedy = verdict["remediation"] or {}
        unknown = verdict["outcome"] == "UNKNOWN"
        return line(
            Outcome.UNKNOWN if unknown else Outcome.REFUSED,
            reason=f"{verdict['cause']}: {verdict['message']}",
            to_do=_steps(remedy),
            status=ExitStatus.UNKNOWN if unknown else ExitStatus.UNHEALTHY,
        )

    def _not_ready(self, arn: str, use: str) -> tuple[str, tuple[str, ...]] | None:
        """What the person has to do before the key can be tried at all."""
        if self.wanted.project_id is None or self.project is None:
            reason = "not tried: its project is not there yet, and a role needs the project's ExternalId"
            return reason, (f"keyvigil project create {self.wanted.project_id or 'PROJECT'}", *self._role(arn, use))
        if self.project_is_new:
            return "not tried: no role can know the ExternalId of a project that was just made", self._role(arn, use)
        if self.wanted.role_for(arn) is None:
            return f"no role was given for account {account_of(arn)}", self._role(arn, use)
        if use == "kes" and self.wanted.probe_secret_arn is None:
            project_id = self.wanted.project_id
            make = (
                f"aws secretsmanager create-secret --region {region_of(arn)} --name keyvigil/{project_id}/probe "
                f'--kms-key-id {arn} --secret-string "KeyVigil availability probe"'
            )
            let = (
                "Let the role read it (onboarding/customer-role.yaml, ProbeSecretArn), and import again with "
                "--probe-secret-arn and its ARN."
            )
            return "no secret was given for the probe, which proves the way through Secrets Manager", (make, let)
        return None

    def _role(self, arn: str, use: str) -> tuple[str, ...]:
        external_id = (self.project or {}).get("external_id", "EXTERNAL_ID")
        project_id = self.wanted.project_id or "PROJECT"
        deploy = (
            f"In account {account_of(arn)} deploy onboarding/customer-role.yaml (docs/onboarding.md) with "
            f"ProjectId={project_id} ExternalId={external_id} Use={use} and {arn} among KeyArns, "
            f"and {self.wanted.again} and its ARN."
        )
        return (deploy,)

    def _registered_meanwhile(self, error: Exception) -> JsonObject | None:
        """An alias may lead to a key that is registered by its own ARN; the refusal says its id."""
        if not isinstance(error, ApiProblemError) or error.status != HTTPStatus.CONFLICT:
            return None
        for key_id in _KEY_ID_IN_WORDS.findall(error.detail):
            try:
                return self.run.api.get(*self._path("keys"), key_id)
            except ApiProblemError:
                continue
        return None

    # --- clusters

    def _cluster(
        self, wanted: Dependent, cluster_id: str, key: Line, key_id: str | None, clusters: Mapping[str, JsonObject]
    ) -> Line:
        def line(outcome: Outcome, **more: Any) -> Line:
            return Line(
                what=wanted.kind,
                outcome=outcome,
                id=cluster_id,
                key=wanted.key_arn,
                addresses=(wanted.address,),
                **more,
            )

        about = "; ".join(part for part in (wanted.name, wanted.detail) if part)
        there = clusters.get(cluster_id)
        if wanted.region != region_of(wanted.key_arn):
            return line(
                Outcome.REFUSED,
                reason=f"KMS key and cluster are in different Regions: it is in {wanted.region}, the key in "
                f"{region_of(wanted.key_arn)}",
                to_do=("A multi-Region key needs a replica there; name the replica's ARN.",),
                status=ExitStatus.ERROR,
            )
        if there is not None and (key_id is None or there["key_id"] != key_id):
            return line(
                Outcome.REFUSED,
                reason=f"{_FIXED}: it is registered under {there['key_id']}",
                to_do=("If it really hangs on this key now: `keyvigil cluster delete`, and import again.",),
                status=ExitStatus.ERROR,
            )
        if there is not None:
            return line(Outcome.THERE, reason=there["status"])
        if key_id is None and key.outcome is not Outcome.WOULD_REGISTER:
            return line(key.outcome, reason="its key is not registered", status=key.status)
        if self.wanted.dry_run:
            return line(Outcome.WOULD_REGISTER, reason=about)
        body = {
            "cluster_id": cluster_id,
            "name": printable(wanted.name)[:_LONGEST_NAME],
            "kind": wanted.kind,
            "region": wanted.region,
            "key_id": key_id,
            "lock": {"via": self.wanted.lock_via},
        }
        try:
            made = self.run.create(f"registering {cluster_id}", *self._path("clusters"), body=body)
        except (ApiProblemError, ApiUnreachableError) as error:
            return _refused(line, error)
        return line(Outcome.REGISTERED, reason=f"{made['status']}; {about}")

    def _path(self, collection: str) -> tuple[str, str, str]:
        return "projects", str(self.wanted.project_id), collection


def _by_key(dependents: Iterable[Dependent]) -> dict[str, list[Dependent]]:
    grouped: dict[str, list[Dependent]] = {}
    for each in dependents:
        grouped.setdefault(each.key_arn, []).append(each)
    return grouped


def _line_of(left: LeftOut) -> Line:
    return Line(
        what="-",
        outcome=_OF_WHY[left.why],
        key=left.key,
        addresses=(left.address,),
        reason=left.reason,
        to_do=(left.to_do,) if left.to_do else (),
        status=ExitStatus.ERROR if left.why is Why.REFUSED else ExitStatus.FINE,
    )


def _refused(line: _MakeLine, error: Exception) -> Line:
    if not isinstance(error, ApiProblemError):
        return line(
            Outcome.UNKNOWN, reason=str(error), to_do=("Import again: what is there is not registered twice.",),
            status=ExitStatus.UNKNOWN,
        )  # fmt: skip
    unknown = error.status == HTTPStatus.SERVICE_UNAVAILABLE
    refused = ExitStatus.UNHEALTHY if error.cause else ExitStatus.ERROR
    said = [f"{error.title}: {error.detail}" if error.detail else error.title]
    said += [f"{each.get('field', '?')}: {each.get('message', '?')}" for each in error.errors]
    return line(
        Outcome.UNKNOWN if unknown else Outcome.REFUSED,
        reason="; ".join(said),
        to_do=_steps(error.remediation or {}),
        status=ExitStatus.UNKNOWN if unknown else refused,
    )


def _steps(remedy: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_sentences(remedy))


def _sentences(remedy: Mapping[str, Any]) -> Iterator[str]:
    if remedy.get("summary"):
        yield str(remedy["summary"])
    yield from (str(each) for each in remedy.get("commands") or ())
