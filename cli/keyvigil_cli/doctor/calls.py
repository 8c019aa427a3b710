"""The calls that the doctor makes, each with a time-out and one retry."""

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import boto3
from botocore.config import Config

from keyvigil_cli.policies.documents import Document, parsed

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

PLAINTEXT = b"KeyVigil availability probe"
SESSION = "keyvigil-doctor"

_CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})


class Calls(Protocol):
    """One identity's calls. Each raises what botocore does, which `kms_errors` reads."""

    def caller(self) -> str:
        """The ARN of whoever calls."""
        ...

    def assumed(self, role_arn: str, external_id: str | None) -> "Calls":
        """The same calls in the name of a role."""
        ...

    def describe(self, key_arn: str) -> Mapping[str, Any]:
        """What KMS tells of the key."""
        ...

    def encrypt(self, key_arn: str, context: Mapping[str, str]) -> bytes:
        """A ciphertext of a constant text."""
        ...

    def decrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> None:
        """Decrypt it; the text is dropped."""
        ...

    def generate_data_key(self, key_arn: str, context: Mapping[str, str]) -> bytes:
        """An encrypted data key; the plain one is dropped."""
        ...

    def re_encrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> None:
        """From the key to the same key."""
        ...

    def rotated(self, key_arn: str) -> bool:
        """Whether automatic rotation is on."""
        ...

    def key_policy(self, key_arn: str) -> Document:
        """The key's policy."""
        ...

    def simulated(self, role_arn: str, actions: tuple[str, ...], key_arn: str) -> Mapping[str, bool]:
        """What IAM says that a role's own policies allow."""
        ...

    def list_secrets(self, region: str) -> None:
        """One page of one secret's name, dropped."""
        ...

    def read_secret(self, secret_arn: str) -> None:
        """Read a secret made for probes; its value is dropped."""
        ...

    def make_and_delete_secret(self, key_arn: str, name: str) -> None:
        """Make a secret without anything secret, read it, and delete it at once."""
        ...


class AwsCalls:
    """Calls of AWS, or of a local cloud (AWS_ENDPOINT_URL)."""

    def __init__(self, session: boto3.Session) -> None:
        """Take an identity."""
        self._session = session
        self._client = cache(self._make_client)

    def _make_client(self, service: str, region: str | None = None) -> Any:
        asked = cast("Any", self._session)
        region = region or self._session.region_name or os.environ.get("AWS_REGION") or "us-east-1"
        return asked.client(service, region_name=region, config=_CONFIG)

    def _kms(self, key_arn: str) -> "KMSClient":
        return cast("KMSClient", self._client("kms", key_arn.split(":")[3]))

    def _secrets(self, region: str) -> "SecretsManagerClient":
        return cast("SecretsManagerClient", self._client("secretsmanager", region))

    def caller(self) -> str:
        return str(self._client("sts").get_caller_identity()["Arn"])

    def assumed(self, role_arn: str, external_id: str | None) -> "AwsCalls":
        asked = {"RoleArn": role_arn, "RoleSessionName": SESSION, "DurationSeconds": 900}
        if external_id is not None:
            asked["ExternalId"] = external_id
        given = self._client("sts").assume_role(**asked)["Credentials"]
        session = boto3.Session(
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
            region_name=self._session.region_name,
        )
        return AwsCalls(session)

    def describe(self, key_arn: str) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self._kms(key_arn).describe_key(KeyId=key_arn)["KeyMetadata"])

    def encrypt(self, key_arn: str, context: Mapping[str, str]) -> bytes:
        asked = self._kms(key_arn).encrypt(KeyId=key_arn, Plaintext=PLAINTEXT, EncryptionContext=context)
        return asked["CiphertextBlob"]

    def decrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> None:
        self._kms(key_arn).decrypt(KeyId=key_arn, CiphertextBlob=ciphertext, EncryptionContext=context)

    def generate_data_key(self, key_arn: str, context: Mapping[str, str]) -> bytes:
        asked = self._kms(key_arn).generate_data_key(KeyId=key_arn, KeySpec="AES_256", EncryptionContext=context)
        return asked["CiphertextBlob"]

    def re_encrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> None:
        self._kms(key_arn).re_encrypt(
            CiphertextBlob=ciphertext,
            SourceKeyId=key_arn,
            SourceEncryptionContext=context,
            DestinationKeyId=key_arn,
            DestinationEncryptionContext=context,
        )

    def rotated(self, key_arn: str) -> bool:
        return bool(self._kms(key_arn).get_key_rotation_status(KeyId=key_arn)["KeyRotationEnabled"])

    def key_policy(self, key_arn: str) -> Document:
        return parsed(self._kms(key_arn).get_key_policy(KeyId=key_arn, PolicyName="default")["Policy"])

    def simulated(self, role_arn: str, actions: tuple[str, ...], key_arn: str) -> Mapping[str, bool]:
        asked = self._client("iam").simulate_principal_policy(
            PolicySourceArn=role_arn, ActionNames=list(actions), ResourceArns=[key_arn]
        )
        return {each["EvalActionName"]: each["EvalDecision"] == "allowed" for each in asked["EvaluationResults"]}

    def list_secrets(self, region: str) -> None:
        self._secrets(region).list_secrets(MaxResults=1)

    def read_secret(self, secret_arn: str) -> None:
        self._secrets(secret_arn.split(":")[3]).get_secret_value(SecretId=secret_arn)

    def make_and_delete_secret(self, key_arn: str, name: str) -> None:
        secrets = self._secrets(key_arn.split(":")[3])
        made = secrets.create_secret(
            Name=name, KmsKeyId=key_arn, SecretString=json.dumps({"made-by": SESSION}), Description="nothing secret"
        )
        try:
            secrets.get_secret_value(SecretId=made["ARN"])
        finally:
            secrets.delete_secret(SecretId=made["ARN"], ForceDeleteWithoutRecovery=True)
