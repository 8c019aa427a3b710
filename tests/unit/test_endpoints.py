"""What SNS is told to send to must be what its protocol says, and must not point inside somebody's network."""

import pytest

from keyvigil.domain.endpoints import endpoint_problem
from keyvigil.domain.projects import Protocol

GOOD = [
    (Protocol.SQS, "arn:aws:sqs:us-west-2:222222222222:alerts"),
    (Protocol.LAMBDA, "arn:aws:lambda:us-west-2:222222222222:function:page-somebody"),
    (Protocol.LAMBDA, "arn:aws:lambda:us-west-2:222222222222:function:page-somebody:live"),
    (Protocol.EMAIL, "oncall@example.com"),
    (Protocol.EMAIL, "on.call+kms@ops.example.co.uk"),
    (Protocol.HTTPS, "https://hooks.example.com/keyvigil?team=a"),
    (Protocol.HTTPS, "https://hooks.example.com:8443"),
    (Protocol.HTTPS, "https://8.8.8.8/hook"),
    (Protocol.HTTPS, "https://[2606:4700:4700::1111]/hook"),
]


@pytest.mark.parametrize(("protocol", "endpoint"), GOOD)
def test_an_endpoint_of_the_right_form_is_taken(protocol: Protocol, endpoint: str) -> None:
    assert endpoint_problem(protocol, endpoint) is None


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [(other, endpoint) for protocol, endpoint in GOOD for other in Protocol if other is not protocol],
)
def test_an_endpoint_of_one_protocol_is_none_of_another(protocol: Protocol, endpoint: str) -> None:
    assert endpoint_problem(protocol, endpoint) is not None


@pytest.mark.parametrize(("protocol", "endpoint"), GOOD)
@pytest.mark.parametrize("extra", ["\n", " ", "\x00", "\u202e", "é"])
def test_nothing_hides_at_the_end_or_the_beginning_of_an_endpoint(
    protocol: Protocol, endpoint: str, extra: str
) -> None:
    assert endpoint_problem(protocol, endpoint + extra) is not None
    assert endpoint_problem(protocol, extra + endpoint) is not None


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "https://",
        "https:///path",
        "https://user@hooks.example.com/",
        "https://user:secret@hooks.example.com/",
        "https://@hooks.example.com/",
        "https://hooks.example.com/#part",
        "https://hooks.example.com/#",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com:port/",
        "https://localhost/",
        "https://hooks/",
        "https://hooks_.example.com/",
        "https://-hooks.example.com/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://0.0.0.0/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[ff02::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[2002:a00:1::]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[::1/",
        f"https://hooks.example.com/{'a' * 2048}",
    ],
)
def test_a_url_that_is_no_public_https_address_is_refused(endpoint: str) -> None:
    problem = endpoint_problem(Protocol.HTTPS, endpoint)

    assert problem is not None
    assert "https://HOST/PATH" in problem
    assert problem.endswith(".")


@pytest.mark.parametrize(
    "endpoint",
    ["", "oncall", "@example.com", "oncall@", "a@b", "a@@example.com", "a b@example.com", "a@example.com,b@example.com",
     "<a@example.com>", "a@-example.com", "a@example..com", f"{'a' * 65}@example.com", f"a@{'b' * 60}.{'c' * 60}." * 3],
)  # fmt: skip
def test_what_is_not_one_mail_address_is_refused(endpoint: str) -> None:
    assert endpoint_problem(Protocol.EMAIL, endpoint) is not None


@pytest.mark.parametrize(
    "endpoint",
    [
        "arn:aws:lambda:us-west-2:222222222222:function:",
        "arn:aws:lambda:us-west-2:222222222222:layer:page",
        "arn:aws-cn:lambda:cn-north-1:222222222222:function:page",
        "arn:aws:lambda:us-west-2:2222:function:page",
        "page-somebody",
        f"arn:aws:lambda:us-west-2:222222222222:function:{'a' * 65}",
    ],
)
def test_what_is_no_functions_arn_is_refused(endpoint: str) -> None:
    assert endpoint_problem(Protocol.LAMBDA, endpoint) is not None
