"""docs/quick-start-operator.md, docs/quick-start-customer.md and docs/cli.md, followed word by word by a new user."""

from tests.guides.playground import Customer, Playground
from tests.guides.reader import CHECKOUT, Page, Pages, Reader
from tests.guides.written_commands import CUSTOMER, OPERATOR

QUICK_SECONDS = 600


def test_a_new_operator_sees_an_outage_from_its_beginning_to_its_end(playground: Playground, pages: Pages) -> None:
    operator, page = playground.first, playground.quick_start
    page.follow(operator, "Take a customer in")
    assert "HEALTHY" in page.follow(operator, "Watch a key")
    outage = page.follow(operator, "See an outage")
    assert "aws kms enable-key" in outage
    assert outage.count("ended with 3") == 2
    assert "key.unhealthy" in outage
    assert "LOCKED" in (CHECKOUT.root / ".local-cloud" / "fleet.html").read_text(encoding="utf-8")
    assert "incident.resolved" in settled(operator, page.follow(operator, "See it end"))
    page.follow(operator, "Let the customer look")
    # The cloud ends with the last page: its one command takes a second, and is asserted there.
    assert [block.chapter for block in page.left] == ["End it"]
    pages.seconds[OPERATOR] = page.seconds
    assert page.seconds < QUICK_SECONDS


def settled(operator: Reader, printed: str) -> str:
    """The end of the outage, which may come a moment after the cluster's."""
    if "incident.resolved" in printed:
        return printed
    return operator.paste(
        'until keyvigil incident show acme-prod "$INCIDENT_ID" | grep incident.resolved; do sleep 2; done'
    )


def test_a_new_customer_finds_out_why_a_cluster_is_locked(playground: Playground, pages: Pages) -> None:
    project = "acme-customer"
    operator = playground.operator(project)
    operator.paste(f"keyvigil project create {project} --enforcement enforce")
    Page(OPERATOR).follow(operator, "Let the customer look")
    customer = playground.customer(project, folder=CHECKOUT.root)
    customer.tell(
        {
            "THE_EXTERNAL_ID": operator.paste(f"keyvigil api GET /projects/{project} --field external_id").strip(),
            # The page on onboarding leaves a role of the usual name to its project.
            "ROLE_PARAMETERS": f"RestrictToProbes=false RoleName=keyvigil-customer-{project}",
        }
    )

    with pages.open(CUSTOMER) as page:
        page.follow(customer, "What the operator tells you", "Let KeyVigil probe a key")
        assert "HEALTHY" in page.follow(customer, "Call KeyVigil")
        wondering = page.follow(customer, "Why is my cluster locked?")
        assert "ended with 3" in wondering
        assert "key.suspect" in wondering
        page.follow(customer, "Mend it", "Be told")
        until_no_incident_is_open(operator, project)
        page.follow(customer, "Leave")
    assert page.seconds < QUICK_SECONDS


def until_no_incident_is_open(reader: Reader, project: str) -> None:
    """A key under an open incident is not deleted."""
    reader.paste(f"until keyvigil incident list {project} --open -o json | grep -F '\"items\": []'; do sleep 2; done")


def test_the_page_on_the_command_line_leads_to_a_cloud_and_through_a_bad_night(
    playground: Playground, pages: Pages
) -> None:
    operator = playground.operator("acme-cli", folder=CHECKOUT.root)
    with pages.open("docs/cli.md") as page:
        assert "acme-cli" in page.follow(operator, "A cloud of your own")
        # Where a person approves, there is something to decide at three in the morning.
        night = playground.take_in("acme-night", approval="manual", enforcement="enforce")
        watched = night.project.register_key(night.key)
        night.account.disable_key(night.key)
        incident_id = an_incident_that_waits_for_a_person(night)
        operator.stands_for = {r"\bacme-prod\b": "acme-night"}
        operator.tell({"KEY_ID": watched["key_id"], "THE_INCIDENT": incident_id})
        decided = page.follow(operator, "At three in the morning", statuses=(3, 0, 3, 0))
    assert incident_id in decided


def an_incident_that_waits_for_a_person(customer: Customer) -> str:
    """The incident of a key that was just disabled, once it is confirmed."""
    customer.project.api.post("projects", customer.project.project_id, "keys", customer.key_id, "check")
    opened: str = customer.project.key(customer.key_id)["open_incident_id"]
    assert customer.project.wait_for_incident(opened, "HELD")["held_for"] == "approval"
    return opened
