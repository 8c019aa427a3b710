"""What each kind of system asks of its key."""

from dataclasses import dataclass
from types import MappingProxyType

from keyvigil.domain.keys import KeyUse

BASIC = ("DescribeKey", "Encrypt", "Decrypt")
DATA_KEYS = (*BASIC, "GenerateDataKey")


@dataclass(frozen=True, kw_only=True)
class System:
    """A kind of system.

    `operations` are tried directly. `through`: it uses the key through that AWS service, so a refused direct call
    proves nothing yet. `lets_in` are services whose principal the key's policy must name. `secrets`: it keeps its keys
    in Secrets Manager. `users`: what roles of the stack must be allowed, and how they are called by default.
    """

    name: str
    operations: tuple[str, ...]
    use: KeyUse = KeyUse.CMEK
    through: str | None = None
    lets_in: tuple[str, ...] = ()
    secrets: bool = False
    users: tuple[str, ...] = ()
    user_names: tuple[str, ...] = ()
    source: str


_ALL = (
    System(name="zilliz-cmek", operations=BASIC, source="https://docs.zilliz.com/docs/aws-kms"),
    System(
        name="zilliz-byoc",
        operations=DATA_KEYS,
        use=KeyUse.CSE,
        source="https://docs.zilliz.com/docs/byoc/aws-kms",
    ),
    System(
        name="minio-kes",
        operations=BASIC,
        secrets=True,
        source="https://min.io/docs/kes/integrations/aws-secrets-manager",
    ),
    System(
        name="bedrock-budgeteer",
        operations=("DescribeKey",),
        # Its table, buckets and parameters are used by its roles; its trail by CloudTrail itself.
        lets_in=("cloudtrail",),
        users=("kms:DescribeKey", "kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom",
               "kms:ReEncryptTo"),
        user_names=(
            "bedrock-budgeteer-production-lambda-execution",
            "bedrock-budgeteer-production-step-functions",
            "bedrock-budgeteer-production-firehose-delivery",
        ),
        source="https://github.com/teabranch/bedrock-budgeteer",
    ),
    System(
        name="stack",
        operations=("DescribeKey",),
        users=("kms:DescribeKey", "kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"),
        source="https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-services.html",
    ),
    System(name="keyvigil", operations=("DescribeKey",), lets_in=("logs", "sns", "events"), source="docs/own-key.md"),
    System(
        name="rds", operations=("DescribeKey",), through="rds",
        source="https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Overview.Encryption.Keys.html",
    ),
    System(
        name="s3", operations=("DescribeKey", "GenerateDataKey", "Decrypt"), through="s3",
        source="https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html",
    ),
    System(
        name="lambda", operations=("DescribeKey", "Encrypt", "Decrypt"), through="lambda",
        source="https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html",
    ),
    System(
        name="secretsmanager", operations=("DescribeKey", "GenerateDataKey", "Decrypt"), through="secretsmanager",
        source="https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html",
    ),
    System(
        name="dynamodb", operations=("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey", "ReEncrypt"),
        through="dynamodb",
        source="https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html",
    ),
    System(
        name="cloudtrail", operations=("DescribeKey",), lets_in=("cloudtrail",),
        source="https://docs.aws.amazon.com/awscloudtrail/latest/userguide/create-kms-key-policy-for-cloudtrail.html",
    ),
    System(
        name="ssm", operations=("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"), through="ssm",
        source="https://docs.aws.amazon.com/kms/latest/developerguide/services-parameter-store.html",
    ),
)  # fmt: skip
SYSTEMS = MappingProxyType({each.name: each for each in _ALL})
