"""What happens to each kind of resource when its key can no longer be used, as AWS says it."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of resource: its name for people, the API's kind of cluster, what stops, and the page that says so."""

    singular: str
    plural: str
    cluster_kind: str
    stops: str
    source: str


_DOCS = "https://docs.aws.amazon.com/"

KINDS: dict[str, Kind] = {
    "rds-instance": Kind(
        "RDS instance", "RDS instances", "aws-rds",
        "The database stops. It can be started again if the key returns within seven days; later only a restore from a "
        "backup helps, which needs the key too.",
        _DOCS + "AmazonRDS/latest/UserGuide/Overview.Encryption.Keys.html",
    ),
    "rds-cluster": Kind(
        "Aurora or RDS cluster", "Aurora or RDS clusters", "aws-rds",
        "The cluster and all its instances stop. They can be started again if the key returns within seven days; later "
        "only a restore from a backup helps, which needs the key too.",
        _DOCS + "AmazonRDS/latest/AuroraUserGuide/Overview.Encryption.html",
    ),
    "rds-part": Kind(
        "part of a database", "parts of databases", "aws-rds",
        "The database goes on; this part of it can no longer be read or written.",
        _DOCS + "AmazonRDS/latest/UserGuide/Overview.Encryption.Keys.html",
    ),
    "s3-bucket": Kind(
        "S3 bucket", "S3 buckets", "aws-s3",
        "Objects under the key can be neither read nor written; the bucket and its list remain.",
        _DOCS + "AmazonS3/latest/userguide/UsingKMSEncryption.html",
    ),
    "lambda-function": Kind(
        "Lambda function", "Lambda functions", "aws-lambda",
        "The function can no longer start: its environment variables cannot be decrypted.",
        _DOCS + "lambda/latest/dg/configuration-envvars-encryption.html",
    ),
    "secret": Kind(
        "secret", "secrets", "aws-secretsmanager",
        "The secret can be neither read nor changed, and whatever reads it at its start does not start.",
        _DOCS + "secretsmanager/latest/userguide/security-encryption.html",
    ),
    "dynamodb-table": Kind(
        "DynamoDB table", "DynamoDB tables", "aws-dynamodb",
        "The table can be neither read nor written; after seven days DynamoDB archives it.",
        _DOCS + "amazondynamodb/latest/developerguide/encryption.howitworks.html",
    ),
    "ebs-volume": Kind(
        "EBS volume", "EBS volumes", "other",
        "It goes on while it stays attached; once detached, or its instance stopped, it cannot be attached again.",
        _DOCS + "kms/latest/developerguide/unusable-kms-keys.html",
    ),
    "ebs-snapshots": Kind(
        "set of EBS snapshots", "sets of EBS snapshots", "other",
        "No volume can be made from these snapshots.",
        _DOCS + "ebs/latest/userguide/ebs-encryption.html",
    ),
    "trail": Kind(
        "CloudTrail trail", "CloudTrail trails", "other",
        "Log files are no longer delivered, and those that there are cannot be read.",
        _DOCS + "awscloudtrail/latest/userguide/encrypting-cloudtrail-log-files-with-aws-kms.html",
    ),
    "ssm-parameter": Kind(
        "SecureString parameter", "SecureString parameters", "other",
        "The parameter can be neither read decrypted nor changed.",
        _DOCS + "kms/latest/developerguide/services-parameter-store.html",
    ),
    "sns-topic": Kind(
        "SNS topic", "SNS topics", "other",
        "Nothing can be published to the topic.",
        _DOCS + "sns/latest/dg/sns-server-side-encryption.html",
    ),
    "sqs-queue": Kind(
        "SQS queue", "SQS queues", "other",
        "Messages can be neither sent nor received; those inside are lost when their retention ends.",
        _DOCS + "AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-server-side-encryption.html",
    ),
    "log-group": Kind(
        "log group", "log groups", "other",
        "What it holds can no longer be read.",
        _DOCS + "AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html",
    ),
}  # fmt: skip
