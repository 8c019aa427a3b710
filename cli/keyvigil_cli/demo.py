"""The demo: an outage of a customer's key from end to end, on the local cloud, with the real stack.

Nothing is staged: the sweeps are the scheduler's, the verdicts are the probes', the alerts come through SNS.
"""

import contextlib
from datetime import UTC, datetime
from typing import Self

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keyvigil_cli.alert_queue import Alert, AlertQueue
from keyvigil_cli.api_client import ApiClient, JsonObject
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.control_plane import ControlPlane
from keyvigil_cli.customer import CustomerAccount, RegistrableKey
from keyvigil_cli.errors import CliError
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, DEFAULT_NAME, LocalCloud, StackOutputs
from keyvigil_cli.local_stack import deploy, start_cloud
from keyvigil_cli.project import SWEEP_SECONDS, Project
from keyvigil_cli.teller import Teller

PROJECT_ID = "acme-prod"
VECTORS = "vectors-prod"
ANALYTICS = "analytics-dev"
CLUSTERS = (VECTORS, ANALYTICS)

_ALERT_SECONDS = 60.0
_OUTAGE_ALERTS = ("key.suspect", "key.unhealthy", "cluster.locked")
_RETURN_ALERTS = ("key.recovered", "cluster.unlocked")


class StepDidNotHappenError(CliError):
    """The stack answered, and not as the story has it."""


class Story:
    """The outage, step by step. A context manager: it ends the control plane that it runs."""

    def __init__(self, cloud: LocalCloud, teller: Teller) -> None:
        """Take a running cloud and somebody who tells what happens."""
        self._cloud = cloud
        self._teller = teller
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """End what the story runs."""
        self._running.close()

    def tell(self, outputs: StackOutputs) -> None:
        """Tell it from the first project to the resolved incident.

        Raises:
            CliError: a step did not happen.
        """
        teller = self._teller
        api = self._cloud.api(outputs)

        teller.chapter("A customer brings their key")
        project = self.create_project(api)
        customer, key = self.set_up_customer(outputs, project)
        key_id = self.register_key(project, key)
        queue = self.subscribe(project)
        control_plane = self.run_control_plane(api, outputs)
        self.register_clusters(project, key_id)
        self.see_a_sweep_find_it_healthy(project, key_id)

        teller.chapter("The customer disables the key")
        self.disable(customer, key)
        disabled_at = teller.seconds
        incident_id = self.see_the_incident_open(project, key_id)
        noticed_at = teller.seconds
        self.see_the_outage_confirmed(project, key_id)
        self.see_clusters(project, control_plane, "LOCKED")
        locked_at = teller.seconds
        alerts = self.see_alerts(queue, _OUTAGE_ALERTS)
        self.show_alert(alerts["key.unhealthy"])

        teller.chapter("The customer enables the key again")
        self.enable(customer, key)
        enabled_at = teller.seconds
        self.see_the_recovery_proved(project, key_id)
        self.see_clusters(project, control_plane, "ACTIVE")
        back_at = teller.seconds
        incident = self.see_the_incident_resolved(project, incident_id)
        self.see_alerts(queue, _RETURN_ALERTS)
        self.show_timeline(incident)
        teller.say(
            f"\nThe outage was noticed {noticed_at - disabled_at:.0f} s after the key was disabled (keys are due every "
            f"minute here, every ten by default), and both clusters were locked {locked_at - noticed_at:.0f} s "
            f"later. They were back {back_at - enabled_at:.0f} s after the key was enabled."
        )

    def create_project(self, api: ApiClient) -> Project:
        """Create the customer's project, as the operator."""
        with self._teller.step(f"the operator creates project {PROJECT_ID}, which may lock clusters") as step:
            project = Project.create(api, PROJECT_ID, name="Acme production", enforcement="enforce")
            project.on_look = self._teller.news
            step.outcome = f"its ExternalId is {project.external_id}"
        return project

    def set_up_customer(self, outputs: StackOutputs, project: Project) -> tuple[CustomerAccount, RegistrableKey]:
        """Create key and role in the customer's account."""
        with self._teller.step(
            f"the customer's account {CUSTOMER_ACCOUNT} creates a key and deploys customer-role.yaml"
        ) as step:
            customer = CustomerAccount(self._cloud.session(CUSTOMER_ACCOUNT), CUSTOMER_ACCOUNT)
            key = customer.onboard(outputs["MonitorRoleArn"], project.external_id, PROJECT_ID)
            step.outcome = key.key_arn
        return customer, key

    def register_key(self, project: Project, key: RegistrableKey) -> str:
        """Register the key, which probes it."""
        with self._teller.step("the key is registered, and probed before that") as step:
            registered = project.register_key(key)
            _expect("the registered key", "HEALTHY", registered["status"])
            operations = ", ".join(registered["operations"])
            step.outcome = f"{registered['status']} ({operations}; {registered['verdict']['latency_ms']} ms)"
        key_id: str = registered["key_id"]
        return key_id

    def subscribe(self, project: Project) -> AlertQueue:
        """Subscribe the operator's queue to the project's alerts."""
        with self._teller.step("a queue of the operator's is subscribed to the project's alerts") as step:
            queue = AlertQueue(self._cloud.session(), "demo-alerts", project.alert_topic_arn)
            step.outcome = str(project.subscribe(queue)["status"])
        return queue

    def run_control_plane(self, api: ApiClient, outputs: StackOutputs) -> ControlPlane:
        """Start the control plane that answers lock requests."""
        with self._teller.step("a small control plane starts to listen for lock requests") as step:
            control_plane = ControlPlane(
                self._cloud.session(),
                api,
                outputs["AlertBusName"],
                name="demo-control-plane",
                project_id=PROJECT_ID,
            )
            self._running.enter_context(control_plane)
            step.outcome = f"on bus {outputs['AlertBusName']}"
        return control_plane

    def register_clusters(self, project: Project, key_id: str) -> None:
        """Register two clusters that depend on the key."""
        with self._teller.step("two clusters are registered under the key") as step:
            states = {
                VECTORS: project.register_cluster(VECTORS, key_id, {"via": "event", "timeout_seconds": 120}),
                ANALYTICS: project.register_cluster(ANALYTICS, key_id, {"via": "none"}, kind="other"),
            }
            for cluster_id, cluster in states.items():
                _expect(f"cluster {cluster_id}", "ACTIVE", cluster["status"])
            step.outcome = f"{VECTORS} (locked by the control plane), {ANALYTICS} (in the registry only): ACTIVE"

    def see_a_sweep_find_it_healthy(self, project: Project, key_id: str) -> None:
        """Wait for the scheduler's own sweep."""
        with self._teller.step("the next scheduled sweep probes the key") as step:
            key = project.wait_for_key(
                key_id,
                "a scheduled sweep to probe the key",
                lambda seen: seen["last_trigger"] == "schedule",
                within=SWEEP_SECONDS,
            )
            _expect("the key after a sweep", "HEALTHY", key["status"])
            step.outcome = f"{key['status']} at {_clock(key['last_probed_at'])}"

    def disable(self, customer: CustomerAccount, key: RegistrableKey) -> None:
        """Disable the key, as its owner."""
        with self._teller.step("aws kms disable-key, in the customer's account"):
            customer.disable_key(key)

    def enable(self, customer: CustomerAccount, key: RegistrableKey) -> None:
        """Enable the key, as its owner."""
        with self._teller.step("aws kms enable-key, in the customer's account"):
            customer.enable_key(key)

    def see_the_incident_open(self, project: Project, key_id: str) -> str:
        """Wait until a sweep has seen the outage."""
        with self._teller.step("a sweep sees it: the key is suspect, an incident opens") as step:
            key = project.wait_for_key(
                key_id,
                "an incident to open",
                lambda seen: bool(seen["open_incident_id"]),
                within=SWEEP_SECONDS,
            )
            verdict = key["verdict"]
            said = f"{verdict['operation']} says {verdict['aws_error_code']}"
            step.outcome = f"{key['status']}, {verdict['cause']}: {said}"
        incident_id: str = key["open_incident_id"]
        return incident_id

    def see_the_outage_confirmed(self, project: Project, key_id: str) -> None:
        """Wait for the confirmation probes."""
        with self._teller.step("probes ten seconds apart confirm it") as step:
            step.outcome = str(project.wait_for_key_status(key_id, "UNHEALTHY")["status"])

    def see_clusters(self, project: Project, control_plane: ControlPlane, status: str) -> None:
        """Wait until both clusters are locked, or back."""
        with self._teller.step(f"both clusters become {status}") as step:
            clusters = project.wait_for_clusters(CLUSTERS, status)
            control_plane.check()
            fences = ", ".join(f"{name} by fence {cluster['fence']}" for name, cluster in clusters.items())
            step.outcome = f"{fences}; the control plane has carried out {len(control_plane.carried_out)}"

    def see_alerts(self, queue: AlertQueue, types: tuple[str, ...]) -> dict[str, Alert]:
        """Wait until an alert of each type has come to the queue."""
        with self._teller.step("the alerts arrive on the queue") as step:
            alerts = dict(zip(types, queue.wait_for(*types, within=_ALERT_SECONDS), strict=True))
            step.outcome = ", ".join(types)
        return alerts

    def see_the_recovery_proved(self, project: Project, key_id: str) -> None:
        """Wait until a sweep has seen the key work and the recovery probes have proved it."""
        with self._teller.step("a sweep sees it work, further probes prove it") as step:
            step.outcome = str(project.wait_for_key_status(key_id, "HEALTHY", within=2 * SWEEP_SECONDS)["status"])

    def see_the_incident_resolved(self, project: Project, incident_id: str) -> JsonObject:
        """Wait until the incident is over."""
        with self._teller.step("the incident is resolved") as step:
            incident = project.wait_for_incident(incident_id, "RESOLVED")
            step.outcome = str(incident["status"])
        return incident

    def show_alert(self, alert: Alert) -> None:
        """Show one alert as it arrived."""
        self._teller.say(f"\n  One of them, {alert['type']}, as it arrived:\n")
        self._teller.console.print_json(data=alert, indent=2)

    def show_timeline(self, incident: JsonObject) -> None:
        """Show what the incident's own record says."""
        self._teller.chapter(f"Incident {incident['incident_id']}, from the API")
        table = Table("at (UTC)", "after", "what", "detail")
        opened = datetime.fromisoformat(incident["opened_at"])
        for entry in incident["timeline"]:
            after = (datetime.fromisoformat(entry["at"]) - opened).total_seconds()
            table.add_row(_clock(entry["at"]), f"{after:.1f} s", entry["what"], str(entry.get("detail") or ""))
        self._teller.console.print(table)


def _left_running(cloud: LocalCloud, outputs: StackOutputs | None) -> str:
    api = f"# ApiUrl: {outputs.api_url}\n" if outputs else ""
    return (
        f"\nThe local cloud is left running (KEEP). Lead a shell to it:\n\n. {escape(str(cloud.keep()))}\n{api}"
        "# keyvigil local status says how it is, keyvigil local down ends it"
    )


def _expect(what: str, wanted: str, seen: str) -> None:
    if seen != wanted:
        message = f"{what} should be {wanted}; it is {seen}"
        raise StepDidNotHappenError(message)


def _clock(timestamp: str) -> str:
    return datetime.fromisoformat(timestamp).astimezone(UTC).strftime("%H:%M:%S")


def run(checkout: Checkout, *, keep: bool, output: Console, errors: Console) -> int:
    """Start the local cloud, deploy the stack, tell the story; return the exit status.

    With ``keep`` the cloud is left running, also when a step failed.
    """
    teller = Teller(output)
    try:
        with contextlib.ExitStack() as running:
            teller.chapter("An AWS of our own")
            cloud = start_cloud(checkout, teller, running, stays=DEFAULT_NAME if keep else None)
            outputs: StackOutputs | None = None
            try:
                outputs = deploy(cloud, teller)
                running.enter_context(Story(cloud, teller)).tell(outputs)
            finally:
                if keep:
                    teller.say(_left_running(cloud, outputs))
    except (CliError, BotoCoreError, ClientError) as error:
        errors.print(f"\nThe demo ended: {error}", markup=False, highlight=False, soft_wrap=True)
        errors.print(f"Logs: {checkout.root / '.local-cloud'}", markup=False, highlight=False, soft_wrap=True)
        return 1
    teller.say(f"\nAll of it happened, in {teller.seconds:.0f} s.")
    return 0
