"""Secrets Manager: read each time, so that a rotated secret is used from the next call on."""

from functools import cached_property
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from keyvigil.adapters.aws import config, session
from keyvigil.adapters.aws_errors import error_name, may_pass
from keyvigil.errors import KeyVigilError

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


class SecretUnreadableError(KeyVigilError):
    """A receiver's secret could not be read. The message says why and never what is in it.

    Attributes:
        may_pass: whether it may be readable a little later.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        """Say why, and whether trying again may help."""
        super().__init__(message)
        self.may_pass = may_pass


class SecretReader:
    """Reads secrets of this account and Region; IAM allows those whose names begin with keyvigil/."""

    @cached_property
    def _client(self) -> "SecretsManagerClient":
        return session().client("secretsmanager", config=config())

    def __call__(self, secret_arn: str) -> str:
        """Read the current version of a secret that is text.

        Raises:
            SecretUnreadableError: it cannot be read, or is empty or not text.
        """
        try:
            text = self._client.get_secret_value(SecretId=secret_arn).get("SecretString", "")
        except (ClientError, BotoCoreError) as error:
            message = f"its secret could not be read: {error_name(error)}"
            raise SecretUnreadableError(message, may_pass=may_pass(error)) from error
        if not text.strip():
            message = "its secret is empty or not text"
            raise SecretUnreadableError(message)
        return text.strip()
