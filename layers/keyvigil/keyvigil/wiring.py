"""The composition root: which adapter stands behind which port, made once a sandbox. Importing it touches no AWS.

Adapters are imported where they are used, so that a function loads only what it needs.
"""

import time
from typing import TYPE_CHECKING

from keyvigil.once import once
from keyvigil.settings import Settings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer

    from keyvigil.adapters.kms_calls import KmsCalls
    from keyvigil.domain.lock_settings import LockBounds
    from keyvigil.ports import (
        CheckQueue,
        Clock,
        Findings,
        Heartbeat,
        Ids,
        KeyChecker,
        Prober,
        ReceiverCalls,
        Store,
        Topics,
        Workflow,
    )
    from keyvigil.use_cases.ask_check import AskCheck
    from keyvigil.use_cases.asking_out_of_turn import AskOutOfTurn
    from keyvigil.use_cases.audit_roles import AuditRoles
    from keyvigil.use_cases.backups import Backups
    from keyvigil.use_cases.braking import AskBrake, Braking
    from keyvigil.use_cases.call_receiver import CallReceiver
    from keyvigil.use_cases.canaries import Canaries
    from keyvigil.use_cases.check_canary import AskCanaries, CheckCanary
    from keyvigil.use_cases.check_key import CheckKey
    from keyvigil.use_cases.decide_incident import DecideIncident
    from keyvigil.use_cases.find_actor import FindActor
    from keyvigil.use_cases.follow_receivers import FollowReceivers
    from keyvigil.use_cases.keep_pointers import KeepPointers
    from keyvigil.use_cases.keep_topics import KeepTopics
    from keyvigil.use_cases.lock_clusters import DecideLockout, RequestLock
    from keyvigil.use_cases.open_shut_clusters import OpenShutClusters
    from keyvigil.use_cases.outbox_aside import OutboxAside
    from keyvigil.use_cases.plan_actor_searches import PlanActorSearches
    from keyvigil.use_cases.plan_sweep import PlanSweep
    from keyvigil.use_cases.quiet import TellAgain
    from keyvigil.use_cases.read_fleet import ReadFleet
    from keyvigil.use_cases.read_overview import ReadOverview
    from keyvigil.use_cases.receive_key_event import ReceiveKeyEvent
    from keyvigil.use_cases.reconcile import Reconcile
    from keyvigil.use_cases.record_lock_result import RecordLockResult
    from keyvigil.use_cases.registry import Clusters, Keys, Projects, Subscriptions
    from keyvigil.use_cases.relay_outbox import RelayOutbox
    from keyvigil.use_cases.settle_lockout import SettleLockout
    from keyvigil.use_cases.silencing import Silencing
    from keyvigil.use_cases.stop_orphans import StopOrphans
    from keyvigil.use_cases.tell_stale import TellStale
    from keyvigil.use_cases.unlock_clusters import DecideRecovery, SettleRecovery


@once
def settings() -> Settings:
    """The function's settings."""
    return Settings.from_env()


@once
def clock() -> "Clock":
    """The machine's clock."""
    from keyvigil.adapters.clock_and_ids import SystemClock

    return SystemClock()


@once
def ids() -> "Ids":
    """Random identifiers."""
    from keyvigil.adapters.clock_and_ids import RandomIds

    return RandomIds()


@once
def store() -> "Store":
    """The table."""
    from keyvigil.adapters.dynamodb_store import DynamoDbStore

    return DynamoDbStore(settings().text("TABLE_NAME"), settings().region)


@once
def prober() -> "Prober":
    """The prober; only `check_keys` has the permissions that it needs."""
    from keyvigil.adapters.kms_prober import KmsProber

    return KmsProber(
        clock(),
        monitor_role_arn=settings().text("MONITOR_ROLE_ARN"),
        calls=kms_calls(),
        transport=settings().optional("KMS_TRANSPORT") or "boto3",
    )


@once
def kms_calls() -> "KmsCalls":
    """The count of what probes ask of KMS; one for the whole sandbox."""
    from keyvigil.adapters.kms_calls import KmsCalls

    return KmsCalls()


@once
def workflow() -> "Workflow":
    """Step Functions."""
    from keyvigil.adapters.step_functions import StepFunctionsWorkflow

    return StepFunctionsWorkflow(
        settings().optional("LOCKOUT_STATE_MACHINE_ARN"), settings().optional("RECOVERY_STATE_MACHINE_ARN")
    )


def _probes() -> int:
    return settings().number("CONFIRMATION_PROBES")


@once
def check_key() -> "CheckKey":
    """Check one key."""
    from keyvigil.use_cases.check_key import CheckKey

    return CheckKey(
        store(),
        prober(),
        clock(),
        ids(),
        doubt=ask_canaries(),
        confirmation_probes=_probes(),
        turn=_ask_out_of_turn(),
    )


@once
def _ask_out_of_turn() -> "AskOutOfTurn":
    from keyvigil.adapters.clock_and_ids import RandomPauses
    from keyvigil.use_cases.asking_out_of_turn import AskOutOfTurn

    share = settings().number("QUOTA_SHARE_PERCENT")
    return AskOutOfTurn(store(), clock(), RandomPauses(), time.sleep, quota_share_percent=share)


@once
def check_canary() -> "CheckCanary":
    """Check one canary."""
    from keyvigil.domain.canaries import OwnCanary
    from keyvigil.use_cases.check_canary import CheckCanary

    own = OwnCanary(
        key_arn=settings().text("CANARY_KEY_ARN"),
        role_arn=settings().text("CANARY_ROLE_ARN"),
        external_id=settings().text("CANARY_EXTERNAL_ID"),
    )
    return CheckCanary(store(), prober(), clock(), ids(), own=own)


@once
def ask_canaries() -> "AskCanaries":
    """Ask whether a denial might be our own fault; one for the whole sandbox, so that a batch asks once."""
    from keyvigil.use_cases.check_canary import AskCanaries

    return AskCanaries(check_canary(), clock())


@once
def find_actor() -> "FindActor":
    """Find who brought an incident about; only `check_keys` may look into customers' CloudTrail."""
    from keyvigil.adapters.cloudtrail_history import CloudTrailHistory
    from keyvigil.use_cases.find_actor import FindActor

    return FindActor(store(), CloudTrailHistory(), clock(), ids())


@once
def _check_queue() -> "CheckQueue":
    from keyvigil.adapters.messaging import SqsCheckQueue

    return SqsCheckQueue(settings().text("CHECK_QUEUE_URL"))


@once
def receive_key_event() -> "ReceiveKeyEvent":
    """Take an event about keys."""
    from keyvigil.use_cases.receive_key_event import ReceiveKeyEvent

    return ReceiveKeyEvent(store(), _check_queue(), clock())


@once
def plan_sweep() -> "PlanSweep":
    """Plan the minute's sweep."""
    from keyvigil.adapters.messaging import SqsCheckQueue
    from keyvigil.use_cases.plan_sweep import PlanSweep

    share = settings().number("QUOTA_SHARE_PERCENT")
    slow_queue = SqsCheckQueue(settings().text("SLOW_CHECK_QUEUE_URL"))
    keys = settings().number("KEYS_A_SWEEP")
    return PlanSweep(store(), _check_queue(), slow_queue, clock(), keys_a_sweep=keys, quota_share_percent=share)


@once
def plan_actor_searches() -> "PlanActorSearches":
    """Plan the minute's searches for who brought incidents about."""
    from keyvigil.use_cases.plan_actor_searches import PlanActorSearches

    return PlanActorSearches(store(), _check_queue(), clock())


@once
def keep_pointers() -> "KeepPointers":
    """See that events find every key. Made anew by every deployment, and so begun anew."""
    from keyvigil.use_cases.keep_pointers import KeepPointers

    return KeepPointers(store())


@once
def reconcile() -> "Reconcile":
    """Mend what nobody is working on."""
    from keyvigil.adapters.functions import InvokedOutboxRelay
    from keyvigil.use_cases.lock_clusters import FailOverdueLock
    from keyvigil.use_cases.reconcile import INCIDENTS_AT_ONCE, Reconcile

    return Reconcile(
        store(),
        workflow(),
        InvokedOutboxRelay(settings().text("RELAY_OUTBOX_FUNCTION_NAME")),
        FailOverdueLock(store(), record_lock_result(), clock()),
        settle_lockout(),
        settle_recovery(),
        clock(),
        ids(),
        ask_brake=ask_brake(),
        braking=braking(),
        confirmation_probes=_probes(),
        at_once=INCIDENTS_AT_ONCE,
    )


@once
def open_shut_clusters() -> "OpenShutClusters":
    """Bring back the clusters that nobody sees to any more."""
    from keyvigil.use_cases.open_shut_clusters import OpenShutClusters

    return OpenShutClusters(store(), clock(), ids())


@once
def stop_orphans() -> "StopOrphans":
    """Stop the executions whose incident is over."""
    from keyvigil.use_cases.stop_orphans import StopOrphans

    return StopOrphans(store(), workflow(), clock())


@once
def tell_stale() -> "TellStale":
    """Tell the operator of keys that were not probed for too long."""
    from keyvigil.use_cases.tell_stale import TellStale

    return TellStale(store(), clock(), ids())


@once
def tell_again() -> "TellAgain":
    """Tell again what lasts."""
    from keyvigil.use_cases.quiet import TellAgain

    return TellAgain(store(), clock(), ids())


@once
def silencing() -> "Silencing":
    """Silences of projects."""
    from keyvigil.use_cases.silencing import Silencing

    return Silencing(store(), clock(), ids())


@once
def ask_brake() -> "AskBrake":
    """What makes views of the brake."""
    from keyvigil.domain.brake import BrakeSettings
    from keyvigil.use_cases.braking import AskBrake

    stack = BrakeSettings(
        minimum_accounts=settings().number("BRAKE_MINIMUM_ACCOUNTS"),
        percent=settings().number("BRAKE_PERCENT"),
        max_lockouts=settings().number("MAX_LOCKOUTS_PER_15_MINUTES"),
    )
    return AskBrake(store(), clock(), stack)


@once
def braking() -> "Braking":
    """Engage and release the brake."""
    from keyvigil.use_cases.braking import Braking

    return Braking(store(), clock(), ids())


@once
def keep_topics() -> "KeepTopics":
    """Bring projects' topics and subscriptions into line. Made anew by every deployment, and so begun anew."""
    from keyvigil.adapters.messaging import SnsTopics
    from keyvigil.use_cases.keep_topics import KeepTopics

    # It makes no topics, so it needs neither their prefix nor their tags.
    topics = SnsTopics(
        "", {}, settings().optional("KMS_KEY_ARN"), settings().text("ALERT_DEAD_LETTERS_ARN"), _publishers()
    )
    return KeepTopics(store(), topics)


@once
def heartbeat() -> "Heartbeat | None":
    """The watcher outside, if the operator has one."""
    from keyvigil.adapters.heartbeat import HttpsHeartbeat

    url = settings().optional("HEARTBEAT_URL")
    return HttpsHeartbeat(url) if url else None


@once
def audit_roles() -> "AuditRoles":
    """See that every key's role is claimed. Made anew by every deployment, and so begun anew."""
    from keyvigil.use_cases.audit_roles import AuditRoles

    return AuditRoles(store(), clock())


@once
def relay_outbox() -> "RelayOutbox":
    """Deliver outbox rows."""
    from keyvigil.adapters.messaging import AwsNotifier
    from keyvigil.use_cases.relay_outbox import RelayOutbox

    notifier = AwsNotifier(settings().text("ALERT_BUS_NAME"), settings().optional("DOCUMENTATION_URL"))
    operator_topic = settings().text("OPERATOR_TOPIC_ARN")
    return RelayOutbox(
        store(),
        notifier,
        workflow(),
        clock(),
        operator_topic_arn=operator_topic,
        receiver_calls=_receiver_calls(),
        findings=_findings(),
    )


@once
def _findings() -> "Findings | None":
    """AWS Security Hub, if the operator wants its findings."""
    if settings().optional("SECURITY_HUB") != "true":
        return None
    from keyvigil.adapters.security_hub import SecurityHubFindings

    _, partition, _, region, account_id, _ = settings().text("OPERATOR_TOPIC_ARN").split(":", 5)
    return SecurityHubFindings(
        account_id=account_id, partition=partition, region=region, stack_name=settings().text("STACK_NAME")
    )


@once
def outbox_aside() -> "OutboxAside":
    """Rows of the outbox that were set aside."""
    from keyvigil.use_cases.outbox_aside import OutboxAside

    return OutboxAside(store(), clock())


@once
def _receiver_calls() -> "ReceiverCalls":
    from keyvigil.adapters.functions import InvokedReceiverCalls

    return InvokedReceiverCalls(settings().text("CALL_RECEIVER_FUNCTION_NAME"))


@once
def _lock_bounds() -> "LockBounds":
    """What the operator lets tenants name as receivers."""
    from keyvigil.domain.lock_settings import LockBounds

    return LockBounds(
        account_id=settings().text("ACCOUNT_ID"),
        region=settings().region,
        stack_name=settings().text("STACK_NAME"),
        runbooks=settings().text("ALLOW_RUNBOOKS") == "true",
    )


@once
def call_receiver() -> "CallReceiver":
    """Call a cluster's receiver; only `call_receiver` has the permissions that it needs."""
    from keyvigil.adapters.clock_and_ids import RandomPauses
    from keyvigil.adapters.function_receiver import FunctionReceiver
    from keyvigil.adapters.guarded_https import GuardedHttps
    from keyvigil.adapters.runbook_receiver import RunbookReceiver
    from keyvigil.adapters.secret_reader import SecretReader
    from keyvigil.adapters.webhook_receiver import WebhookReceiver
    from keyvigil.adapters.zilliz_cloud import ZillizCloudReceiver
    from keyvigil.domain.clusters import LockVia, Preset
    from keyvigil.use_cases.call_receiver import CallReceiver, Receivers

    https, read_secret = GuardedHttps(), SecretReader()
    receivers: Receivers = {
        (LockVia.LAMBDA, Preset.NONE): FunctionReceiver(),
        (LockVia.WEBHOOK, Preset.NONE): WebhookReceiver(https, read_secret, clock()),
        (LockVia.WEBHOOK, Preset.ZILLIZ_CLOUD): ZillizCloudReceiver(https, read_secret),
        (LockVia.SSM_AUTOMATION, Preset.NONE): RunbookReceiver(),
    }
    return CallReceiver(store(), receivers, record_lock_result(), clock(), ids(), RandomPauses(), _lock_bounds())


@once
def follow_receivers() -> "FollowReceivers":
    """Ask after requests that a receiver accepted."""
    from keyvigil.use_cases.follow_receivers import FollowReceivers

    return FollowReceivers(store(), _receiver_calls(), clock())


@once
def record_lock_result() -> "RecordLockResult":
    """Take a control plane's answer."""
    from keyvigil.use_cases.record_lock_result import RecordLockResult

    return RecordLockResult(store(), workflow(), settle_lockout(), clock(), ids())


@once
def decide_lockout() -> "DecideLockout":
    """Decide whether to lock."""
    from keyvigil.use_cases.lock_clusters import DecideLockout

    return DecideLockout(store(), ask_brake(), clock(), ids(), confirmation_probes=_probes())


@once
def request_lock() -> "RequestLock":
    """Ask for a lock or an unlock."""
    from keyvigil.use_cases.lock_clusters import RequestLock

    return RequestLock(store(), workflow(), record_lock_result(), clock(), ids())


@once
def settle_lockout() -> "SettleLockout":
    """End a lockout."""
    from keyvigil.use_cases.settle_lockout import SettleLockout

    return SettleLockout(store(), clock(), ids())


@once
def decide_recovery() -> "DecideRecovery":
    """Decide whether to unlock."""
    from keyvigil.use_cases.unlock_clusters import DecideRecovery

    return DecideRecovery(store(), clock(), ids())


@once
def settle_recovery() -> "SettleRecovery":
    """End a recovery."""
    from keyvigil.use_cases.unlock_clusters import SettleRecovery

    return SettleRecovery(store(), clock(), ids())


@once
def _topics() -> "Topics":
    from keyvigil.adapters.messaging import SnsTopics

    stack = settings().text("STACK_NAME")
    return SnsTopics(
        settings().text("TOPIC_PREFIX"),
        {"keyvigil:stack": stack},
        settings().optional("KMS_KEY_ARN"),
        settings().text("ALERT_DEAD_LETTERS_ARN"),
        _publishers(),
        settings().optional("DOCUMENTATION_URL"),
    )


def _publishers() -> list[str]:
    """The roles that publish to projects' topics: the relay's, and the API's for test messages."""
    return settings().text("TOPIC_PUBLISHERS").split(",")


@once
def projects() -> "Projects":
    """The registry's projects."""
    from keyvigil.use_cases.registry import Projects

    return Projects(store(), _topics(), clock(), ids())


@once
def _checker() -> "KeyChecker":
    from keyvigil.adapters.functions import InvokedKeyChecker

    return InvokedKeyChecker(settings().text("CHECK_KEYS_FUNCTION_NAME"))


@once
def keys() -> "Keys":
    """The registry's keys."""
    from keyvigil.use_cases.registry import Keys

    monitor_role_arn = settings().text("MONITOR_ROLE_ARN")
    return Keys(
        store(), _checker(), clock(), own_account=settings().text("ACCOUNT_ID"), monitor_role_arn=monitor_role_arn
    )


@once
def decide_incident() -> "DecideIncident":
    """Keep a person's decision."""
    from keyvigil.use_cases.decide_incident import DecideIncident

    return DecideIncident(store(), clock(), ids())


@once
def kept_answers() -> "BasePersistenceLayer":
    """Answers that are given again to who repeats a request."""
    from keyvigil.adapters.idempotency import kept_answers as on_table

    return on_table(settings().text("TABLE_NAME"))


@once
def clusters() -> "Clusters":
    """The registry's clusters."""
    from keyvigil.use_cases.registry import Clusters

    return Clusters(store(), clock(), _lock_bounds())


@once
def backups() -> "Backups":
    """The registry's backups."""
    from keyvigil.use_cases.backups import Backups

    return Backups(store(), _checker(), clock())


@once
def subscriptions() -> "Subscriptions":
    """The registry's subscriptions."""
    from keyvigil.use_cases.registry import Subscriptions

    return Subscriptions(store(), _topics(), clock(), ids())


@once
def canaries() -> "Canaries":
    """The registry's canaries."""
    from keyvigil.adapters.functions import InvokedKeyChecker
    from keyvigil.use_cases.canaries import Canaries

    checker = InvokedKeyChecker(settings().text("CHECK_KEYS_FUNCTION_NAME"))
    return Canaries(
        store(),
        checker,
        clock(),
        ids(),
        external_id=settings().text("CANARY_EXTERNAL_ID"),
        monitor_role_arn=settings().text("MONITOR_ROLE_ARN"),
    )


@once
def read_fleet() -> "ReadFleet":
    """The state of everything under watch."""
    from keyvigil.use_cases.read_fleet import ReadFleet

    return ReadFleet(store(), clock())


@once
def read_overview() -> "ReadOverview":
    """What the dashboard's widget shows."""
    from keyvigil.use_cases.read_overview import ReadOverview

    return ReadOverview(store(), clock(), read_fleet())


@once
def ask_check() -> "AskCheck":
    """Have a key probed by whoever may not probe."""
    from keyvigil.use_cases.ask_check import AskCheck

    return AskCheck(store(), _check_queue(), clock())
