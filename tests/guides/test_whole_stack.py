"""docs/restore.md and docs/own-key.md: the stack itself is restored and deployed anew, after all other pages."""

import json
import re

from keyvigil_cli.waiting import wait_until
from tests.e2e.stack_key_story import Encryption
from tests.guides.playground import Playground
from tests.guides.reader import CHECKOUT, Pages


def test_a_table_is_restored_and_every_key_is_proved_anew(playground: Playground, pages: Pages) -> None:
    taken_in = playground.take_in("acme-restore")
    watched = taken_in.project.register_key(taken_in.key)
    taken_in.project.register_cluster("vectors", watched["key_id"], {"via": "event"})
    operator = playground.operator("acme-restore")
    with pages.open("docs/restore.md") as page:
        restored = page.follow(operator)
    assert "items copied from keyvigil-restored" in restored
    assert re.search(r"[1-9]\d* keys are proved anew", restored), restored[-2000:]
    # What was stopped runs again: probes prove the key.
    wait_until(
        "the key to be proved",
        lambda: taken_in.project.api.post("projects", "acme-restore", "keys", watched["key_id"], "check")["status"],
        lambda status: status == "HEALTHY",
        within=120,
        every=5,
    )


def test_the_stack_gets_a_key_of_its_own_and_loses_it_again(playground: Playground, pages: Pages) -> None:
    # In the checkout itself, where `make build` builds; but what is written there stays out of it.
    operator = playground.operator("acme-own-key", folder=CHECKOUT.root)
    operator.stands_for[r"\bpolicy\.json\b"] = str(operator.home / "policy.json")
    encrypted = Encryption(playground.cloud)
    with pages.open("docs/own-key.md") as page:
        told = page.follow(operator, "Give it one")
        assert "MISSING" not in told
        key_arn = operator.value("KEY_ARN")
        assert encrypted.table(playground.outputs["TableName"]) == key_arn
        assert encrypted.queue(playground.outputs["CheckQueueUrl"]) == key_arn
        policy = playground.client("kms").get_key_policy(KeyId=key_arn)["Policy"]
        assert {each["Sid"] for each in json.loads(policy)["Statement"]} >= {"LetLogsUseTheKey"}
        page.follow(operator, "Change it, take it away")
    wait_until(
        "the queue without a key",
        lambda: encrypted.queue(playground.outputs["CheckQueueUrl"]),
        lambda key: key is None,
        within=30,
    )
