"""One reader a service: an answer's item becomes resources by a pure function, and `read_...` asks for the pages.

A reader keeps names, ARNs and keys. Values (environment variables, parameters, secrets) are not asked for, and where an
answer has them anyway they are dropped at once.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keyvigil_cli.discovery.aws_calls import AWS_ERRORS, Service, code_of, unread_because
from keyvigil_cli.discovery.model import Finding, Json, Place, Reading, Resource, Weight

type Read = Callable[[Service, Place, Reading], None]


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads a service. `actions` are the IAM actions that it needs, and no more."""

    service: str
    actions: tuple[str, ...]
    read: Read


def _careless(place: Place, code: str, about: str, name: str, message: str, advice: str) -> Finding:
    return Finding(
        code=code, weight=Weight.CARELESS, place=place, about=about, name=name, message=message, advice=advice
    )


# --- RDS and Aurora ------------------------------------------------------------------------------------------------


def of_database(item: Json, place: Place) -> Iterator[Resource]:
    """Give a DB instance, and its parts that have keys of their own; one of a cluster has its storage from there.

    https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DBInstance.html
    """
    name, arn = item["DBInstanceIdentifier"], item.get("DBInstanceArn", item["DBInstanceIdentifier"])
    storage = Resource(place=place, service="rds", kind="rds-instance", name=name, arn=arn, key=item.get("KmsKeyId"))
    if not item.get("DBClusterIdentifier"):
        yield storage
    yield from _parts(item, storage)


def of_database_cluster(item: Json, place: Place) -> Iterator[Resource]:
    """Give a DB cluster. The same call answers Neptune's and DocumentDB's.

    https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DBCluster.html
    """
    name, arn = item["DBClusterIdentifier"], item.get("DBClusterArn", item["DBClusterIdentifier"])
    engine = str(item.get("Engine", ""))
    storage = Resource(
        place=place, service="rds", kind="rds-cluster", name=name, arn=arn, key=item.get("KmsKeyId"), part=engine
    )
    yield storage
    yield from _parts(item, storage)


def _parts(item: Json, whole: Resource) -> Iterator[Resource]:
    keys = {
        "Performance Insights": item.get("PerformanceInsightsKMSKeyId"),
        "activity stream": item.get("ActivityStreamKmsKeyId"),
        "master user's secret": (item.get("MasterUserSecret") or {}).get("KmsKeyId"),
    }
    for part, key in keys.items():
        if key:
            yield replace(whole, kind="rds-part", part=part, key=key)


def read_rds(service: Service, place: Place, found: Reading) -> None:
    """Read instances and clusters."""
    rds = service("rds")
    for item in rds.items("describe_db_clusters", "DBClusters"):
        found.resources += of_database_cluster(item, place)
    for item in rds.items("describe_db_instances", "DBInstances"):
        found.resources += of_database(item, place)


# --- S3 ------------------------------------------------------------------------------------------------------------


def of_bucket(name: str, rules: Sequence[Json], place: Place) -> Resource:
    """Give a bucket as its default encryption says; an object may have been written under another key.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ServerSideEncryptionByDefault.html
    """
    arn = f"arn:aws:s3:::{name}"
    bucket = Resource(place=place, service="s3", kind="s3-bucket", name=name, arn=arn, key=None)
    for rule in rules:
        default = rule.get("ApplyServerSideEncryptionByDefault") or {}
        algorithm = str(default.get("SSEAlgorithm", ""))
        if not algorithm.startswith("aws:kms"):
            continue
        key = str(default.get("KMSMasterKeyID") or "alias/aws/s3")
        # With DSSE-KMS there are no bucket keys:
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingDSSEncryption.html
        open_to_more_calls = algorithm == "aws:kms" and not rule.get("BucketKeyEnabled")
        findings = (
            _careless(
                place, "s3-bucket-key-off", arn, name,
                "each object costs a request to KMS of its own: more cost, and throttling that others of the account "
                "feel",
                "Turn the bucket key on (PutBucketEncryption with BucketKeyEnabled); it holds for new objects.",
            ),
        ) if open_to_more_calls else ()  # fmt: skip
        return replace(bucket, key=key, findings=findings)
    return bucket


def bucket_region(constraint: str | None) -> str:
    """Tell the Region that a location constraint means.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketLocation.html
    """
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(constraint, str(constraint))


def read_s3(regions: Collection[str]) -> Read:
    """Make a read of the account's buckets in these Regions; each is asked in its own, all from one list."""

    def read(service: Service, place: Place, found: Reading) -> None:
        s3 = service("s3")
        elsewhere: Counter[str] = Counter()
        for item in s3.items("list_buckets", "Buckets", PaginationConfig={"PageSize": 1000}):
            name = str(item["Name"])
            try:
                region = item.get("BucketRegion") or bucket_region(
                    s3.one("get_bucket_location", Bucket=name).get("LocationConstraint")
                )
                if region == place.region:
                    found.resources.append(of_bucket(name, _encryption(s3, name), place))
                elif region not in regions:
                    elsewhere[region] += 1
            except AWS_ERRORS as error:
                found.unread.append(unread_because(error, place, f"s3 bucket {name}"))
        if elsewhere and place.region == min(regions):
            places = ", ".join(f"{count} in {region}" for region, count in sorted(elsewhere.items()))
            found.notes.append(f"Buckets of {place.account_id} in Regions that were not asked for: {places}.")

    return read


def _encryption(s3: Any, name: str) -> Sequence[Json]:
    try:
        answer = s3.one("get_bucket_encryption", Bucket=name)
    except AWS_ERRORS as error:
        if code_of(error) == "ServerSideEncryptionConfigurationNotFoundError":
            return ()
        raise
    rules: Sequence[Json] = answer["ServerSideEncryptionConfiguration"].get("Rules") or ()
    return rules


# --- Lambda --------------------------------------------------------------------------------------------------------


def of_functions(items: Iterable[Json], place: Place) -> Iterator[Resource]:
    """Give functions, each with the keys that its versions have: an alias may still send calls to an old version.

    https://docs.aws.amazon.com/lambda/latest/api/API_FunctionConfiguration.html
    """
    older: dict[tuple[str, str], list[str]] = defaultdict(list)
    latest: dict[str, Resource] = {}
    for item in items:
        name, key = str(item["FunctionName"]), item.get("KMSKeyArn")
        version = str(item.get("Version") or "$LATEST")
        if version != "$LATEST":
            if key:
                older[name, key].append(version)
            continue
        arn = str(item["FunctionArn"]).removesuffix(":$LATEST")
        has_variables = bool((item.get("Environment") or {}).get("Variables"))
        findings = (
            _careless(
                place, "lambda-environment-without-key", arn, name,
                "has environment variables under AWS's own key: no key policy says who may read them, and nobody "
                "can take them away",
                "Give it a key: aws lambda update-function-configuration --kms-key-arn ...",
            ),
        ) if has_variables and not key else ()  # fmt: skip
        latest[name] = Resource(
            place=place, service="lambda", kind="lambda-function", name=name, arn=arn, key=key, findings=findings
        )
    yield from latest.values()
    for (name, key), versions in older.items():
        now = latest.get(name)
        if now is not None and now.key != key:
            yield replace(now, key=key, part=f"versions {', '.join(versions)}", findings=())


def read_lambda(service: Service, place: Place, found: Reading) -> None:
    """Read functions and their versions."""
    functions: list[Json] = []
    wanted = ("FunctionName", "FunctionArn", "Version", "KMSKeyArn")
    try:
        for item in service("lambda").items("list_functions", "Functions", FunctionVersion="ALL"):
            # Values of variables are secrets often enough: only whether there are any goes further.
            names = dict.fromkeys((item.get("Environment") or {}).get("Variables") or (), "")
            functions.append({**{each: item.get(each) for each in wanted}, "Environment": {"Variables": names}})
    finally:
        found.resources += of_functions(functions, place)


# --- Secrets Manager -----------------------------------------------------------------------------------------------

_OF_SECRETS_MANAGER = "alias/aws/secretsmanager"


def of_secret(item: Json, place: Place) -> Resource:
    """Give a secret; one without a key of its own is under `aws/secretsmanager`.

    https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_SecretListEntry.html
    """
    primary = str(item.get("PrimaryRegion") or place.region)
    part = "" if primary == place.region else f"replica of {primary}"
    key = str(item.get("KmsKeyId") or _OF_SECRETS_MANAGER)
    return Resource(
        place=place, service="secretsmanager", kind="secret", name=item["Name"], arn=item["ARN"], key=key, part=part
    )


def has_own_key(secret: Resource) -> bool:
    """Say whether somebody chose a key for a secret."""
    return secret.key is not None and not secret.key.endswith(_OF_SECRETS_MANAGER)


def of_replicas(secret: Resource, replicas: Iterable[Json]) -> Iterator[Finding]:
    """Find replicas that are not under a key of the customer's although the secret itself is.

    https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ReplicationStatusType.html
    """
    for each in replicas:
        region, key = str(each.get("Region")), str(each.get("KmsKeyId") or _OF_SECRETS_MANAGER)
        if key.endswith(_OF_SECRETS_MANAGER):
            yield _careless(
                secret.place, "replica-without-key", secret.arn, secret.name,
                f"its replica in {region} is under AWS's own key: taking the secret's key away does not close it there",
                f"Remove the replica and replicate again with a key: AddReplicaRegions Region={region},KmsKeyId=...",
            )  # fmt: skip
        if each.get("Status") == "Failed":
            why = each.get("StatusMessage") or "no reason given"
            yield _careless(
                secret.place, "replica-failed", secret.arn, secret.name,
                f"replication to {region} failed: {why}",
                "Mend what is named, then: aws secretsmanager replicate-secret-to-regions ...",
            )  # fmt: skip


def read_secrets(service: Service, place: Place, found: Reading) -> None:
    """Read secrets, never their values, and of those under a key of somebody's the replicas."""
    secrets = service("secretsmanager")
    for item in secrets.items("list_secrets", "SecretList"):
        secret = of_secret(item, place)
        if has_own_key(secret) and not secret.part:
            try:
                described = secrets.one("describe_secret", SecretId=secret.arn)
                replicas = tuple(of_replicas(secret, described.get("ReplicationStatus") or ()))
                secret = replace(secret, findings=replicas)
            except AWS_ERRORS as error:
                found.unread.append(unread_because(error, place, f"replicas of secret {secret.name}"))
        found.resources.append(secret)


# --- DynamoDB ------------------------------------------------------------------------------------------------------


def of_table(table: Json, place: Place) -> Resource:
    """Give a table; without an SSE description it is under a key that DynamoDB owns.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_SSEDescription.html
    """
    name, arn = str(table["TableName"]), str(table["TableArn"])
    sse = table.get("SSEDescription") or {}
    since = sse.get("InaccessibleEncryptionDateTime")
    findings = [
        _careless(
            place, "replica-without-key", arn, name,
            f"its replica in {replica.get('RegionName')} names no key of its own",
            "Give each replica of a global table a key: UpdateTable, ReplicaUpdates, KMSMasterKeyId.",
        )
        for replica in table.get("Replicas") or ()
        if sse.get("KMSMasterKeyArn")
        and not replica.get("KMSMasterKeyId")
        and replica.get("RegionName") != place.region
    ]  # fmt: skip
    if since is not None:
        findings.append(
            Finding(
                code="table-inaccessible", weight=Weight.UNHEALTHY, place=place, about=arn, name=name,
                message=f"DynamoDB cannot use its key since {since:%Y-%m-%d %H:%M} UTC: in seven days it archives it",
                advice="Let DynamoDB use the key again: enable it, cancel its deletion, or restore its policy.",
            )
        )  # fmt: skip
    key = sse.get("KMSMasterKeyArn")
    return Resource(
        place=place, service="dynamodb", kind="dynamodb-table", name=name, arn=arn, key=key, findings=tuple(findings)
    )


def read_dynamodb(service: Service, place: Place, found: Reading) -> None:
    """Read tables."""
    tables = service("dynamodb")
    for name in tables.items("list_tables", "TableNames"):
        try:
            found.resources.append(of_table(tables.one("describe_table", TableName=name)["Table"], place))
        except AWS_ERRORS as error:
            found.unread.append(unread_because(error, place, f"dynamodb table {name}"))


# --- EBS -----------------------------------------------------------------------------------------------------------


def of_volume(item: Json, place: Place) -> Resource:
    """Give an encrypted volume, with the instances that it is attached to.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Volume.html
    """
    name = str(item["VolumeId"])
    instances = [str(each["InstanceId"]) for each in item.get("Attachments") or () if each.get("InstanceId")]
    return Resource(
        place=place, service="ebs", kind="ebs-volume", name=name,
        arn=f"arn:aws:ec2:{place.region}:{place.account_id}:volume/{name}", key=item.get("KmsKeyId"),
        part=f"attached to {', '.join(instances)}" if instances else "not attached",
    )  # fmt: skip


def of_snapshots(keys: Counter[str | None], place: Place) -> Iterator[Resource]:
    """Give the snapshots of each key as one thing: there are often thousands."""
    for key, count in keys.items():
        name = f"{count:,} snapshot{'s' if count > 1 else ''}"
        identity = f"arn:aws:ec2:{place.region}:{place.account_id}:snapshot/*?key={key}"
        yield Resource(place=place, service="ebs", kind="ebs-snapshots", name=name, arn=identity, key=key)


def read_ebs(service: Service, place: Place, found: Reading) -> None:
    """Read encrypted volumes, and count encrypted snapshots."""
    ec2 = service("ec2")
    encrypted = [{"Name": "encrypted", "Values": ["true"]}]
    for item in ec2.items("describe_volumes", "Volumes", Filters=encrypted):
        found.resources.append(of_volume(item, place))
    keys: Counter[str | None] = Counter()
    try:
        for item in ec2.items("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=encrypted):
            keys[item.get("KmsKeyId")] += 1
    finally:
        found.resources += of_snapshots(keys, place)


# --- CloudTrail, SSM, SNS, SQS, CloudWatch Logs ----------------------------------------------------------------------


def of_trail(item: Json, place: Place) -> Resource:
    """Give a trail.

    https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_Trail.html
    """
    name, arn = str(item["Name"]), str(item["TrailARN"])
    return Resource(place=place, service="cloudtrail", kind="trail", name=name, arn=arn, key=item.get("KmsKeyId"))


def read_cloudtrail(service: Service, place: Place, found: Reading) -> None:
    """Read the trails whose home is here: one of all Regions would be listed in each."""
    answer = service("cloudtrail").one("describe_trails", includeShadowTrails=False)
    found.resources += [of_trail(each, place) for each in answer.get("trailList") or ()]


def of_parameter(item: Json, place: Place) -> Resource:
    """Give a SecureString parameter.

    https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_ParameterMetadata.html
    """
    name = str(item["Name"])
    arn = str(item.get("ARN") or f"arn:aws:ssm:{place.region}:{place.account_id}:parameter/{name.lstrip('/')}")
    key = str(item.get("KeyId") or "alias/aws/ssm")
    return Resource(place=place, service="ssm", kind="ssm-parameter", name=name, arn=arn, key=key)


def read_ssm(service: Service, place: Place, found: Reading) -> None:
    """Read SecureString parameters, never their values."""
    secure = [{"Key": "Type", "Values": ["SecureString"]}]
    for item in service("ssm").items("describe_parameters", "Parameters", ParameterFilters=secure):
        found.resources.append(of_parameter(item, place))


def of_topic(attributes: Json, arn: str, place: Place) -> Resource:
    """Give a topic.

    https://docs.aws.amazon.com/sns/latest/api/API_GetTopicAttributes.html
    """
    name = arn.rpartition(":")[2]
    key = attributes.get("KmsMasterKeyId") or None
    return Resource(place=place, service="sns", kind="sns-topic", name=name, arn=arn, key=key)


def read_sns(service: Service, place: Place, found: Reading) -> None:
    """Read topics."""
    sns = service("sns")
    for item in sns.items("list_topics", "Topics"):
        arn = str(item["TopicArn"])
        try:
            attributes = sns.one("get_topic_attributes", TopicArn=arn)["Attributes"]
            found.resources.append(of_topic(attributes, arn, place))
        except AWS_ERRORS as error:
            found.unread.append(unread_because(error, place, f"sns topic {arn.rpartition(':')[2]}"))


def of_queue(attributes: Json, url: str, place: Place) -> Resource:
    """Give a queue.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html
    """
    name = url.rpartition("/")[2]
    arn = str(attributes.get("QueueArn") or f"arn:aws:sqs:{place.region}:{place.account_id}:{name}")
    key = attributes.get("KmsMasterKeyId") or None
    return Resource(place=place, service="sqs", kind="sqs-queue", name=name, arn=arn, key=key)


def read_sqs(service: Service, place: Place, found: Reading) -> None:
    """Read queues."""
    sqs = service("sqs")
    # Without a page size, SQS lists a thousand queues and stops:
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ListQueues.html
    for url in sqs.items("list_queues", "QueueUrls", PaginationConfig={"PageSize": 1000}):
        try:
            answer = sqs.one("get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn", "KmsMasterKeyId"])
            found.resources.append(of_queue(answer.get("Attributes") or {}, url, place))
        except AWS_ERRORS as error:
            found.unread.append(unread_because(error, place, f"sqs queue {url.rpartition('/')[2]}"))


def of_log_group(item: Json, place: Place) -> Resource:
    """Give a log group.

    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_LogGroup.html
    """
    name = str(item["logGroupName"])
    arn = str(item.get("logGroupArn") or item.get("arn") or name).removesuffix(":*")
    return Resource(place=place, service="logs", kind="log-group", name=name, arn=arn, key=item.get("kmsKeyId"))


def read_logs(service: Service, place: Place, found: Reading) -> None:
    """Read log groups, never what they hold."""
    for item in service("logs").items("describe_log_groups", "logGroups"):
        found.resources.append(of_log_group(item, place))


def readers(regions: Collection[str]) -> tuple[Reader, ...]:
    """Return what reads each service, in the order of the report."""
    return (
        Reader("rds", ("rds:DescribeDBClusters", "rds:DescribeDBInstances"), read_rds),
        Reader(
            "s3", ("s3:ListAllMyBuckets", "s3:GetBucketLocation", "s3:GetEncryptionConfiguration"), read_s3(regions)
        ),
        Reader("lambda", ("lambda:ListFunctions",), read_lambda),
        Reader("secretsmanager", ("secretsmanager:ListSecrets", "secretsmanager:DescribeSecret"), read_secrets),
        Reader("dynamodb", ("dynamodb:ListTables", "dynamodb:DescribeTable"), read_dynamodb),
        Reader("ebs", ("ec2:DescribeVolumes", "ec2:DescribeSnapshots"), read_ebs),
        Reader("cloudtrail", ("cloudtrail:DescribeTrails",), read_cloudtrail),
        Reader("ssm", ("ssm:DescribeParameters",), read_ssm),
        Reader("sns", ("sns:ListTopics", "sns:GetTopicAttributes"), read_sns),
        Reader("sqs", ("sqs:ListQueues", "sqs:GetQueueAttributes"), read_sqs),
        Reader("logs", ("logs:DescribeLogGroups",), read_logs),
    )
