import json

from keyvigil_cli.customer import RegistrableKey, trust_policy

MONITOR = "arn:aws:iam::111111111111:role/keyvigil-monitor"


def test_the_trust_policy_names_the_account_and_binds_role_and_external_id_by_conditions() -> None:
    (statement,) = json.loads(trust_policy(MONITOR, "ext-1"))["Statement"]
    assert statement["Principal"] == {"AWS": "arn:aws:iam::111111111111:root"}
    assert statement["Condition"] == {
        "ArnLike": {"aws:PrincipalArn": [MONITOR, "arn:aws:sts::111111111111:assumed-role/keyvigil-monitor/*"]},
        "StringEquals": {"sts:ExternalId": "ext-1"},
    }


def test_a_key_knows_its_role_s_name() -> None:
    key = RegistrableKey(key_arn="arn:aws:kms:…", role_arn="arn:aws:iam::222222222222:role/path/keyvigil-customer")
    assert key.role_name == "keyvigil-customer"
