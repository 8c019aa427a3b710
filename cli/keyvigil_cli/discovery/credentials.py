"""Whose accounts are read: the caller's own, or those of roles, each role's credentials on a session of its own."""

from collections.abc import Sequence
from typing import cast

import boto3

from keyvigil.domain.arns import role_account
from keyvigil_cli.aws_account import NotConfiguredError
from keyvigil_cli.discovery.aws_calls import AWS_ERRORS, CONFIG, Account, unread_because
from keyvigil_cli.discovery.model import Place, Unread


def regions_of(session: boto3.Session, asked: Sequence[str]) -> list[str]:
    """Return the Regions that were asked for, or else that of the caller's settings.

    Raises:
        NotConfiguredError: nobody says which.
    """
    own = cast("str | None", session.region_name)
    if not asked and own is None:
        raise NotConfiguredError("nothing says which Region is meant", "Say where to look: `--in-region us-west-2`.")
    return list(dict.fromkeys(asked)) or [str(own)]


def accounts_of(
    session: boto3.Session, role_arns: Sequence[str], external_id: str | None, regions: Sequence[str]
) -> tuple[list[Account], list[Unread]]:
    """Return the accounts, and those that could not be entered.

    Raises:
        BotoCoreError, ClientError: the caller has no credentials that AWS knows.
    """
    region = cast("str | None", session.region_name) or regions[0]
    sts = session.client("sts", region_name=region, config=CONFIG)
    own = sts.get_caller_identity()["Account"]
    if not role_arns:
        return [Account(own, session)], []
    accounts: dict[str, Account] = {}
    unread = []
    for arn in role_arns:
        account_id = str(role_account(arn))
        asked = {"RoleArn": arn, "RoleSessionName": "keyvigil-discover"}
        if external_id is not None:
            asked["ExternalId"] = external_id
        try:
            # An hour, which is all that a role gets that was assumed with another role's credentials:
            # https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
            given = sts.assume_role(**asked)["Credentials"]  # type: ignore[arg-type]
        except AWS_ERRORS as error:
            unread.append(unread_because(error, Place(account_id, "all"), f"everything: {arn}"))
            continue
        accounts[account_id] = Account(
            account_id,
            boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], region_name=region),
        )
    return list(accounts.values()), unread
