from keyvigil_cli.customer import RegistrableKey


def test_a_key_knows_its_role_s_name() -> None:
    key = RegistrableKey(key_arn="arn:aws:kms:…", role_arn="arn:aws:iam::222222222222:role/path/keyvigil-customer")
    assert key.role_name == "keyvigil-customer"
