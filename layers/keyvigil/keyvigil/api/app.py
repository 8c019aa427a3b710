"""The routes of the registry API. Powertools routes, pydantic validates, a use case acts, a view answers."""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError as RouteNotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.event_handler.openapi.params import Body, Query

from keyvigil import wiring
from keyvigil.api import views
from keyvigil.api.idempotency_keys import key_of
from keyvigil.api.problems import problem
from keyvigil.api.requests import (
    AnswerLock,
    ChangeCluster,
    ChangeKey,
    ChangeProject,
    CheckRestore,
    CreateProject,
    Decide,
    Lock,
    MakeSilence,
    PullBrake,
    Rebaseline,
    RegisterBackup,
    RegisterCanary,
    RegisterCluster,
    RegisterKey,
    Subscribe,
)
from keyvigil.domain.clusters import Answer, LockSettings
from keyvigil.domain.incidents import TIMELINE_SHOWN, Incident, affected, is_incident_of
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.domain.projects import Project
from keyvigil.errors import (
    AlreadyExistsError,
    CheckerUnavailableError,
    ConflictError,
    DeliveryError,
    NewerItemError,
    NotFoundError,
    RefusedError,
)
from keyvigil.ports import Page
from keyvigil.use_cases.backups import NewBackup
from keyvigil.use_cases.braking import BrakeRequest
from keyvigil.use_cases.read_fleet import every
from keyvigil.use_cases.record_lock_result import LockAnswer
from keyvigil.use_cases.registry import KeyRequest, NewCluster, NewProject

MAX_BODY_BYTES = 64 * 1024
MOST_ITEMS = 200
"""How many items a caller may ask a list for at once."""
ERRORS_SHOWN = 20
LONGEST_FIELD = 100
"""Of a field's name, in characters: it may be one that somebody made up to have it sent back."""

# No id is longer than 63 characters, and the table's sort key takes 1,024 bytes.
LONGEST_PATH_PART = 128
_NORMAL_PATH = re.compile(rf"(?:/(?!\.+(?:/|\Z))[A-Za-z0-9_.-]{{1,{LONGEST_PATH_PART}}})+\Z", re.ASCII)

Limit = Annotated[int, Query(ge=1, le=MOST_ITEMS)]
Token = Annotated[str | None, Query(max_length=2048)]

logger = Logger(service="registry_api")
app = APIGatewayHttpResolver(enable_validation=True)


def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request of the HTTP API.

    IAM has allowed the path as it was written, so a path that is not in its normal form (`..`, `//`, an
    escape) is refused before anything interprets it.
    """
    refusal = _unreadable(event)
    if refusal is not None:
        return _early(refusal)
    key = key_of(event)
    if key is None:
        return app.resolve(event, context)
    # Importing it imports boto3: a fifth of the start, which only requests with such a key wait for.
    from keyvigil.api.idempotency import answer_once  # noqa: PLC0415  see above

    answer = answer_once(event, context, key, _content(event), lambda: app.resolve(event, context))
    return _early(answer) if isinstance(answer, Response) else answer


def _unreadable(event: Mapping[str, Any]) -> Response[str] | None:
    """What is wrong with a request on any route, None if nothing. The router answers most of it with a 500."""
    if not _NORMAL_PATH.match(str(event.get("rawPath", ""))):
        detail = "Write the path without `..`, `//` or escapes, and no part of it longer than 128 characters."
        return problem(400, "Path is not in its normal form", detail)
    try:
        content = _content(event)
        if len(content) > MAX_BODY_BYTES:
            return problem(413, "Body is too large", f"A request body has at most {MAX_BODY_BYTES // 1024} KB.")
        content_type = str((event.get("headers") or {}).get("content-type", "")).strip()
        reads_body = content or event["requestContext"]["http"]["method"] in {"POST", "PATCH"}
        if reads_body and content_type and not content_type.startswith("application/json"):
            return problem(415, "Body is not JSON", "Send a body with `Content-Type: application/json`.")
        if content:
            json.loads(content.decode())
    except (ValueError, RecursionError):  # no base64, no UTF-8, no JSON, endless digits, endless nesting
        return problem(400, "Malformed JSON", "The request body is not valid JSON.")
    return None


def _content(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    return base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else str(body).encode()


def _early(refusal: Response[str]) -> dict[str, Any]:
    """A refusal from before the router."""
    return {
        "statusCode": refusal.status_code,
        "headers": {"Content-Type": refusal.content_type, **refusal.headers},
        "body": refusal.body,
        "isBase64Encoded": False,
    }


def _sentence(reason: str) -> str:
    """A reason from the inside, as a sentence. `str.capitalize` would make the ids in it small."""
    return f"{reason[:1].upper()}{reason[1:]}."


# --- errors -----------------------------------------------------------------------------------------------------


@app.exception_handler(RequestValidationError)
def _invalid(error: RequestValidationError) -> Response[str]:
    found = error.errors()
    if any(each.get("type") == "json_invalid" for each in found):
        return problem(400, "Malformed JSON", "The request body is not valid JSON.")
    errors = [
        {
            "field": (".".join(str(part) for part in each["loc"][1:]) or str(each["loc"][0]))[:LONGEST_FIELD],
            "message": each["msg"],
        }
        for each in found[:ERRORS_SHOWN]
    ]
    return problem(422, "Invalid request", "Some fields are not as they must be; see `errors`.", errors=errors)


@app.exception_handler(RefusedError)
def _refused(error: RefusedError) -> Response[str]:
    if error.__cause__ is not None and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # The caller is told to ask again; why it failed is the operator's to know.
        logger.error("refused", extra={"title": error.title, "reason": str(error.__cause__)})
    remediation = {"summary": error.summary, "commands": list(error.commands)} if error.summary is not None else None
    return problem(
        error.status,
        error.title,
        error.detail,
        cause=error.cause,
        remediation=remediation,
        in_the_way=list(error.in_the_way) or None,
        errors=[{"field": error.field, "message": error.detail}] if error.field is not None else None,
        retry_after_seconds=error.retry_after_seconds,
    )


@app.exception_handler(NotFoundError)
def _not_found(error: NotFoundError) -> Response[str]:
    return problem(404, "Not found", _sentence(str(error)))


@app.not_found
def _no_route(_error: RouteNotFoundError) -> Response[str]:
    return problem(404, "Not found", "There is no such route; docs/api.md lists them.")


@app.exception_handler(AlreadyExistsError)
def _exists(error: AlreadyExistsError) -> Response[str]:
    return problem(409, "Already exists", _sentence(str(error)))


@app.exception_handler(ConflictError)
def _conflict(_error: ConflictError) -> Response[str]:
    return problem(409, "Changed meanwhile", "Others changed the same thing; ask again.", retry_after_seconds=1)


@app.exception_handler(CheckerUnavailableError)
def _no_checker(error: CheckerUnavailableError) -> Response[str]:
    logger.error("check_keys did not answer", extra={"reason": str(error)})
    return problem(
        503,
        "No answer about the KMS key",
        "The probe did not answer in time. Nothing was stored; ask again.",
        retry_after_seconds=30,
    )


@app.exception_handler(DeliveryError)
def _not_delivered(error: DeliveryError) -> Response[str]:
    logger.error("not delivered", extra={"reason": str(error)})
    return problem(
        503,
        "Not passed on yet",
        "The answer was recorded but not passed on; send it again.",
        retry_after_seconds=5,
    )


@app.exception_handler(NewerItemError)
def _newer(error: NewerItemError) -> Response[str]:
    logger.error("newer code wrote it", extra={"reason": str(error)})
    return problem(
        503,
        "Written by a newer version",
        "A newer version of KeyVigil wrote what was asked for, so this one leaves it alone. Nothing was changed. Ask "
        "again if KeyVigil is being upgraded; if that was undone, its operator must deploy the newer version again.",
        retry_after_seconds=60,
    )


@app.exception_handler(Exception)
def _fault(error: Exception) -> Response[str]:
    logger.error("unexpected fault", exc_info=error)
    return problem(500, "Internal error", "KeyVigil failed; the operator's log has the reason.")


# --- projects ---------------------------------------------------------------------------------------------------


def _project_views() -> Callable[[Project], dict[str, Any]]:
    """Projects with their counts, which cost the same however much has happened in them; incidents a moment late."""
    store = wiring.store()
    opened = Counter(project_id for project_id, _ in store.open_incidents())

    def view(shown: Project) -> dict[str, Any]:
        keys = every(lambda limit, token: store.keys(shown.project_id, limit, token))
        clusters = sum(key.clusters for key in keys)
        return views.project(shown, clusters=clusters, open_incidents=opened[shown.project_id])

    return view


@app.post("/projects")
def create_project(body: Annotated[CreateProject, Body()]) -> tuple[dict[str, Any], int]:
    """Make a project."""
    fields = body.model_dump()
    if fields["check_interval_minutes"] is None:
        fields["check_interval_minutes"] = wiring.settings().number("CHECK_INTERVAL_MINUTES")
    project = wiring.projects().create(NewProject(**fields))
    return views.project(project, clusters=0, open_incidents=0), HTTPStatus.CREATED


@app.get("/projects")
def list_projects(limit: Limit = 50, next_token: Token = None) -> dict[str, Any]:
    """List projects."""
    return views.page(wiring.store().projects(limit, next_token), _project_views())


@app.get("/projects/<project_id>")
def get_project(project_id: str) -> dict[str, Any]:
    """Read a project."""
    return _project_views()(wiring.projects().get(project_id))


@app.patch("/projects/<project_id>")
def change_project(project_id: str, body: Annotated[ChangeProject, Body()]) -> dict[str, Any]:
    """Change a project."""
    return _project_views()(wiring.projects().update(project_id, body.model_dump(exclude_unset=True), by=_caller()))


@app.delete("/projects/<project_id>")
def delete_project(project_id: str) -> Response[str]:
    """Remove an empty project."""
    wiring.projects().delete(project_id)
    return _no_content()


def _no_content() -> Response[str]:
    return Response(status_code=HTTPStatus.NO_CONTENT, body="")


# --- keys -------------------------------------------------------------------------------------------------------


@app.post("/projects/<project_id>/keys")
def register_key(project_id: str, body: Annotated[RegisterKey, Body()]) -> tuple[dict[str, Any], int]:
    """Probe a key and register it."""
    key = wiring.keys().register(project_id, _key_request(body))
    return _key_views(project_id)(key), HTTPStatus.CREATED


def _key_request(body: RegisterKey) -> KeyRequest:
    return KeyRequest(
        key_arn=body.key_arn, role_arn=body.role_arn, use=body.use, probe_secret_arn=body.probe_secret_arn
    )


@app.post("/projects/<project_id>/key-validations")
def validate_key(project_id: str, body: Annotated[RegisterKey, Body()]) -> dict[str, Any]:
    """Try a key operation by operation, and store nothing."""
    return views.validation(wiring.keys().validate(project_id, _key_request(body)))


@app.get("/projects/<project_id>/keys")
def list_keys(
    project_id: str,
    status: Annotated[KeyStatus | None, Query()] = None,
    limit: Limit = 50,
    next_token: Token = None,
) -> dict[str, Any]:
    """List a project's keys; at most 20, so a filter works on the page that was read."""
    view = _key_views(project_id)
    found = wiring.store().keys(project_id, limit, next_token)
    wanted = tuple(key for key in found.items if status is None or key.health.status is status)
    return views.page(Page(wanted, found.next_token), view)


@app.get("/projects/<project_id>/keys/<key_id>")
def get_key(project_id: str, key_id: str) -> dict[str, Any]:
    """Read a key."""
    return _key_views(project_id)(wiring.keys().get(project_id, key_id))


@app.post("/projects/<project_id>/keys/<key_id>/check")
def check_key(project_id: str, key_id: str) -> dict[str, Any]:
    """Probe a key now."""
    return _key_views(project_id)(wiring.keys().check(project_id, key_id))


@app.post("/projects/<project_id>/keys/<key_id>/rebaseline")
def rebaseline_key(project_id: str, key_id: str, body: Annotated[Rebaseline, Body()]) -> dict[str, Any]:
    """Make a new registration ciphertext, with a reason."""
    key = wiring.keys().rebaseline(project_id, key_id, reason=body.reason, by=_caller())
    return _key_views(project_id)(key)


@app.patch("/projects/<project_id>/keys/<key_id>")
def change_key(project_id: str, key_id: str, body: Annotated[ChangeKey, Body()]) -> dict[str, Any]:
    """Change a key's role, use or secret, after a probe the new way."""
    changes: Mapping[str, Any] = {name: getattr(body, name) for name in body.model_fields_set}
    return _key_views(project_id)(wiring.keys().update(project_id, key_id, **changes))


@app.delete("/projects/<project_id>/keys/<key_id>")
def delete_key(project_id: str, key_id: str) -> Response[str]:
    """Stop watching a key."""
    wiring.keys().delete(project_id, key_id)
    return _no_content()


def _caller() -> str:
    """The IAM ARN of who signed the request. Every route has AWS_IAM, so API Gateway has checked it."""
    context: Mapping[str, Any] = app.current_event.raw_event["requestContext"]
    return str(context["authorizer"]["iam"]["userArn"])


def _key_views(project_id: str) -> Callable[[Key], dict[str, Any]]:
    interval = wiring.projects().get(project_id).check_interval_minutes
    now = wiring.clock().now()
    return lambda key: views.key(key, interval_minutes=interval, now=now)


# --- clusters ---------------------------------------------------------------------------------------------------


@app.post("/projects/<project_id>/clusters")
def register_cluster(project_id: str, body: Annotated[RegisterCluster, Body()]) -> tuple[dict[str, Any], int]:
    """Register a cluster."""
    fields = {name: getattr(body, name) for name in ("cluster_id", "name", "kind", "region", "key_id")}
    new = NewCluster(**fields, lock=_lock_settings(body.lock))
    return views.cluster(wiring.clusters().register(project_id, new)), HTTPStatus.CREATED


def _lock_settings(lock: Lock) -> LockSettings:
    fields = lock.model_dump()
    if lock.parameters is not None:
        fields["parameters"] = {name: tuple(values) for name, values in lock.parameters.items()}
    return LockSettings(**fields)


@app.get("/projects/<project_id>/clusters")
def list_clusters(project_id: str, limit: Limit = 50, next_token: Token = None) -> dict[str, Any]:
    """List a project's clusters."""
    wiring.projects().get(project_id)
    return views.page(wiring.store().clusters(project_id, limit, next_token), views.cluster)


@app.get("/projects/<project_id>/clusters/<cluster_id>")
def get_cluster(project_id: str, cluster_id: str) -> dict[str, Any]:
    """Read a cluster."""
    return views.cluster(wiring.clusters().get(project_id, cluster_id))


@app.patch("/projects/<project_id>/clusters/<cluster_id>")
def change_cluster(project_id: str, cluster_id: str, body: Annotated[ChangeCluster, Body()]) -> dict[str, Any]:
    """Change a cluster's name, kind or lock."""
    changes: Mapping[str, Any] = {name: getattr(body, name) for name in body.model_fields_set}
    settings = {"lock": _lock_settings(body.lock)} if "lock" in changes else {}
    return views.cluster(wiring.clusters().update(project_id, cluster_id, {**changes, **settings}))


@app.delete("/projects/<project_id>/clusters/<cluster_id>")
def delete_cluster(project_id: str, cluster_id: str) -> Response[str]:
    """Forget a cluster."""
    wiring.clusters().delete(project_id, cluster_id)
    return _no_content()


@app.post("/projects/<project_id>/clusters/<cluster_id>/lock-result")
def answer_lock(project_id: str, cluster_id: str, body: Annotated[AnswerLock, Body()]) -> dict[str, Any]:
    """Take a control plane's answer to a lock or unlock request."""
    decision = wiring.record_lock_result()(
        LockAnswer(
            project_id=project_id,
            cluster_id=cluster_id,
            fence=body.fence,
            result=body.result,
            detail=body.detail,
            by="its control plane",
        )
    )
    match decision.answer:
        case Answer.STALE:
            raise RefusedError(409, "Answer to an older request", _sentence(decision.reason))
        case Answer.CONTRADICTED:
            raise RefusedError(409, "Answer does not fit the request", _sentence(decision.reason))
        case Answer.ACCEPTED | Answer.REPEATED:
            return views.cluster(decision.cluster)


# --- backups ----------------------------------------------------------------------------------------------------


@app.post("/projects/<project_id>/backups")
def register_backup(project_id: str, body: Annotated[RegisterBackup, Body()]) -> tuple[dict[str, Any], int]:
    """Register a backup, which keeps its key in the registry."""
    return views.backup(wiring.backups().register(project_id, NewBackup(**body.model_dump()))), HTTPStatus.CREATED


@app.get("/projects/<project_id>/backups")
def list_backups(project_id: str, limit: Limit = 50, next_token: Token = None) -> dict[str, Any]:
    """List a project's backups."""
    wiring.projects().get(project_id)
    return views.page(wiring.store().backups(project_id, limit, next_token), views.backup)


@app.delete("/projects/<project_id>/backups/<backup_id>")
def delete_backup(project_id: str, backup_id: str) -> Response[str]:
    """Forget a backup."""
    wiring.backups().delete(project_id, backup_id)
    return _no_content()


@app.post("/projects/<project_id>/backups/<backup_id>/restore-check")
def check_restore(project_id: str, backup_id: str, body: Annotated[CheckRestore, Body()]) -> dict[str, Any]:
    """Try whether a restore in a Region would work now."""
    return views.restorability(wiring.backups().check_restore(project_id, backup_id, body.region))


# --- incidents --------------------------------------------------------------------------------------------------


@app.get("/projects/<project_id>/incidents")
def list_incidents(project_id: str, limit: Limit = 50, next_token: Token = None) -> dict[str, Any]:
    """List a project's incidents, newest first. Those of an earlier project of this id come last, and are not shown."""
    project = wiring.projects().get(project_id)
    found = wiring.store().incidents(project_id, limit, next_token)
    mine = tuple(each for each in found.items if is_incident_of(each, project))
    more = found.next_token if len(mine) == len(found.items) else None
    return views.page(Page(mine, more), lambda each: views.incident(each, None, wiring.workflow().execution_arn))


@app.get("/projects/<project_id>/incidents/<incident_id>")
def get_incident(project_id: str, incident_id: str) -> dict[str, Any]:
    """Read an incident with its timeline, and its clusters as they stand now while it is open."""
    return _incident_view(_incident(project_id, incident_id))


@app.get("/projects/<project_id>/incidents/<incident_id>/timeline")
def list_timeline(project_id: str, incident_id: str, limit: Limit = 50, next_token: Token = None) -> dict[str, Any]:
    """List an incident's whole timeline, oldest first."""
    incident = _incident(project_id, incident_id)
    entries = wiring.store().timeline_page(incident.incident_id, limit, next_token)
    return views.page(entries, lambda entry: views.timeline_entry(entry, incident.opened_at))


def _incident(project_id: str, incident_id: str) -> Incident:
    incident, project = wiring.store().incident(project_id, incident_id), wiring.projects().get(project_id)
    if incident is None or not is_incident_of(incident, project):
        message = f"incident {incident_id} does not exist in project {project_id}"
        raise NotFoundError(message)
    return incident


def _incident_view(incident: Incident) -> dict[str, Any]:
    store, project_id = wiring.store(), incident.project_id
    if incident.is_open:
        mine = {each.cluster_id for each in incident.clusters}
        now = [each for each in store.clusters_of_key(project_id, incident.key_id) if each.cluster_id in mine]
        incident = replace(incident, clusters=affected(now))
    # One more than is shown tells whether there are more.
    timeline = store.timeline(incident.incident_id, TIMELINE_SHOWN + 1)
    return views.incident(incident, timeline, wiring.workflow().execution_arn)


@app.post("/projects/<project_id>/incidents/<incident_id>/decision")
def decide(project_id: str, incident_id: str, body: Annotated[Decide, Body()]) -> dict[str, Any]:
    """Take a person's decision about an incident."""
    _incident(project_id, incident_id)
    decided = wiring.decide_incident()(project_id, incident_id, body.decision, reason=body.reason, by=_caller())
    return _incident_view(decided)


# --- subscriptions ----------------------------------------------------------------------------------------------


@app.post("/projects/<project_id>/subscriptions")
def subscribe(project_id: str, body: Annotated[Subscribe, Body()]) -> tuple[dict[str, Any], int]:
    """Subscribe an endpoint to a project's alerts."""
    subscription = wiring.subscriptions().create(
        project_id, body.protocol, body.endpoint, body.min_severity, tuple(body.types)
    )
    return views.subscription(subscription), HTTPStatus.CREATED


@app.get("/projects/<project_id>/subscriptions")
def list_subscriptions(project_id: str, limit: Limit = 50, next_token: Token = None) -> dict[str, Any]:
    """List a project's subscriptions."""
    wiring.projects().get(project_id)
    return views.page(wiring.subscriptions().page(project_id, limit, next_token), views.subscription)


@app.post("/projects/<project_id>/subscriptions/<subscription_id>/test")
def test_subscription(project_id: str, subscription_id: str) -> dict[str, Any]:
    """Send a test message to one subscription."""
    subscription, alert_id = wiring.subscriptions().send_test(project_id, subscription_id)
    return {**views.subscription(subscription), "alert_id": alert_id}


@app.delete("/projects/<project_id>/subscriptions/<subscription_id>")
def unsubscribe(project_id: str, subscription_id: str) -> Response[str]:
    """End a subscription."""
    wiring.subscriptions().delete(project_id, subscription_id)
    return _no_content()


# --- silences ---------------------------------------------------------------------------------------------------


@app.post("/projects/<project_id>/silences")
def create_silence(project_id: str, body: Annotated[MakeSilence, Body()]) -> tuple[dict[str, Any], int]:
    """Silence types of alerts until a time."""
    silence = wiring.silencing().create(
        project_id,
        types=tuple(body.types),
        key_id=body.key_id,
        until=_moment(body.until),
        reason=body.reason,
        by=_caller(),
    )
    return views.silence(silence), HTTPStatus.CREATED


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        detail = f"`until` is {text}, and there is no such time. Write it like 2026-12-31T18:00:00Z."
        raise RefusedError(422, "Invalid silence", detail, field="until") from error


@app.get("/projects/<project_id>/silences")
def list_silences(project_id: str) -> dict[str, Any]:
    """List a project's silences that are not over."""
    return {"items": [views.silence(each) for each in wiring.silencing().current(project_id)], "next_token": None}


@app.delete("/projects/<project_id>/silences/<silence_id>")
def delete_silence(project_id: str, silence_id: str) -> Response[str]:
    """End a silence."""
    wiring.silencing().delete(project_id, silence_id)
    return _no_content()


@app.get("/projects/<project_id>/alerts")
def list_alerts(project_id: str) -> dict[str, Any]:
    """List what is wrong now and what was told of it, what is silenced too."""
    return {"items": [views.standing(each) for each in wiring.silencing().standing(project_id)], "next_token": None}


# --- fleet ------------------------------------------------------------------------------------------------------


@app.get("/fleet")
def get_fleet() -> dict[str, Any]:
    """Read the state of everything under watch."""
    return views.fleet(wiring.read_fleet()())


@app.get("/fleet/outbox")
def list_outbox() -> dict[str, Any]:
    """List outbox rows that were set aside, oldest first."""
    return {"items": [views.row_aside(each) for each in wiring.outbox_aside().rows()], "next_token": None}


@app.post("/fleet/outbox/<row_id>/resend")
def resend_row(row_id: str) -> dict[str, Any]:
    """Have an outbox row that was set aside sent again, by the next sweeps."""
    wiring.outbox_aside().send_again(row_id)
    return {"row_id": row_id}


@app.post("/fleet/brake")
def pull_brake(body: Annotated[PullBrake, Body()]) -> dict[str, Any]:
    """Engage or release the brake."""
    wanted = BrakeRequest(
        region=body.region, project_id=body.project_id, cause=body.cause, reason=body.reason, by=_caller()
    )
    pull = wiring.braking().engage if body.action == "engage" else wiring.braking().release
    return {"brake": [views.brake(each) for each in pull(wanted)]}


@app.get("/fleet/canaries")
def list_canaries() -> dict[str, Any]:
    """List all canaries, with the ExternalId that a new one's role must ask for."""
    canaries, now = wiring.canaries(), wiring.clock().now()
    items = [views.canary(each, now=now) for each in canaries.all()]
    return {"items": items, "next_token": None, "external_id": canaries.external_id}


@app.post("/fleet/canaries")
def register_canary(body: Annotated[RegisterCanary, Body()]) -> tuple[dict[str, Any], int]:
    """Probe a canary's role and key and register it."""
    canary = wiring.canaries().register(body.key_arn, body.role_arn)
    return views.canary(canary, now=wiring.clock().now()), HTTPStatus.CREATED


@app.delete("/fleet/canaries/<canary_id>")
def delete_canary(canary_id: str) -> Response[str]:
    """Forget a canary."""
    wiring.canaries().remove(canary_id)
    return _no_content()
