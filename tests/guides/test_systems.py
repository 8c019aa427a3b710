"""docs/systems: what runs already comes under watch, loses its key and gets it back, by the commands of its page.

Each system has a project and an account of its own, with what its page takes for granted; the chapters that are the
same for all stand in docs/systems/README.md. They are told a few at a time, because they wait for probes.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from keyvigil_cli.customer import CustomerAccount, RegistrableKey
from keyvigil_cli.doctor.systems import SYSTEMS
from keyvigil_cli.local_cloud import OPERATOR_ACCOUNT, REGION
from keyvigil_cli.project import Project
from tests.guides.playground import Playground
from tests.guides.reader import CHECKOUT, Page, Pages, Reader

COMMON = "docs/systems/README.md"
_AT_ONCE = 4
_SECONDS = 600


@dataclass(frozen=True)
class Scene:
    """What a reader of a page has: an account with a key, and the system under it."""

    playground: Playground
    account: str
    key_arn: str
    reader: Reader

    def client(self, service: str) -> Any:
        return self.playground.client(service, self.account)

    def terraform_prints(self, address: str, kind: str, **values: str) -> None:
        """Stand in for `terraform show -json`: this machine need not have Terraform, nor a provider's account."""
        resource = {"address": address, "mode": "managed", "type": kind, "name": "it", "values": values}
        state = {
            "format_version": "1.0",
            "values": {"root_module": {"resources": [{**resource, "sensitive_values": {}}]}},
        }
        self.reader.add_command("terraform", f"test \"$*\" = 'show -json' && cat <<'STATE'\n{json.dumps(state)}\nSTATE")

    def deploy(self, name: str, resources: Any) -> None:
        formation = self.client("cloudformation")
        formation.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources}))
        formation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    def bucket(self, name: str, *, encrypted: bool) -> None:
        s3 = self.client("s3")
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        if encrypted:
            default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": self.key_arn}
            s3.put_bucket_encryption(
                Bucket=name,
                ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": default}]},
            )
            s3.put_object(Bucket=name, Key="probe", Body=b"probe")


def nothing(_scene: Scene) -> None:
    """The system is somebody else's."""


def a_bucket(scene: Scene) -> None:
    scene.bucket("acme-vectors", encrypted=True)


def a_table(scene: Scene) -> None:
    scene.client("dynamodb").create_table(
        TableName="acme-orders",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
        SSESpecification={"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": scene.key_arn},
    )


def a_database_that_rds_has_stopped(scene: Scene) -> None:
    rds = scene.client("rds")
    rds.create_db_instance(
        DBInstanceIdentifier="acme-main",
        DBInstanceClass="db.t4g.micro",
        Engine="postgres",
        AllocatedStorage=20,
        MasterUsername="acme",
        MasterUserPassword="made-up-secret",
        StorageEncrypted=True,
        KmsKeyId=scene.key_arn,
    )
    rds.get_waiter("db_instance_available").wait(
        DBInstanceIdentifier="acme-main", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    rds.stop_db_instance(DBInstanceIdentifier="acme-main")
    scene.terraform_prints(
        "aws_db_instance.main", "aws_db_instance", identifier="acme-main", kms_key_id=scene.key_arn,
        arn=f"arn:aws:rds:{REGION}:{scene.account}:db:acme-main",
    )  # fmt: skip


def a_stack_with_a_function(scene: Scene) -> None:
    role = f"arn:aws:iam::{scene.account}:role/search"
    function = {
        "FunctionName": "acme-search", "Runtime": "python3.13", "Handler": "index.handler", "Role": role,
        "Code": {"ZipFile": "def handler(event, context): return 1\n"}, "KmsKeyArn": scene.key_arn,
        "Environment": {"Variables": {"INDEX": "vectors"}},
    }  # fmt: skip
    trusted = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    scene.client("iam").create_role(
        RoleName="search", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
    )
    scene.deploy("acme-app", {"Search": {"Type": "AWS::Lambda::Function", "Properties": function}})


def a_stack_with_a_secret(scene: Scene) -> None:
    # The local cloud's ListSecrets leaves the key out, so that `discover` would take AWS's own for it.
    secret = {"Name": "acme-db", "KmsKeyId": scene.key_arn, "SecretString": "made-up"}
    scene.deploy("acme-secrets", {"Database": {"Type": "AWS::SecretsManager::Secret", "Properties": secret}})


def a_parameter(scene: Scene) -> None:
    scene.client("ssm").put_parameter(Name="/acme/token", Value="made-up", Type="SecureString", KeyId=scene.key_arn)


def a_trail(scene: Scene) -> None:
    scene.bucket("acme-logs", encrypted=False)
    trails = scene.client("cloudtrail")
    trails.create_trail(Name="acme-trail", S3BucketName="acme-logs", KmsKeyId=scene.key_arn)
    trails.start_logging(Name="acme-trail")


def a_cluster_in_terraform(scene: Scene) -> None:
    scene.terraform_prints(
        "zillizcloud_cluster.story", "zillizcloud_cluster", id="in01-story", cluster_name="Story",
        region_id=f"aws-{REGION}", aws_cse_key_arn=scene.key_arn,
    )  # fmt: skip


def a_kes_server(scene: Scene) -> None:
    config = f"""\
address: 0.0.0.0:7373
cache:
  expiry:
    any: 5m0s
keystore:
  aws:
    secretsmanager:
      endpoint: secretsmanager.{REGION}.amazonaws.com
      region: {REGION}
      kmskey: {scene.key_arn}
"""
    (scene.reader.folder / "server-config.yaml").write_text(config, encoding="utf-8")


def a_cdk_application(scene: Scene) -> None:
    encrypted = {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": scene.key_arn}}
    # Without its trail: the local cloud's CloudFormation makes none.
    table = {
        "TableName": "bedrock-budgeteer-production-usage", "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": scene.key_arn},
    }  # fmt: skip
    bucket = {"BucketEncryption": {"ServerSideEncryptionConfiguration": [encrypted]}}
    scene.deploy(
        "bedrock-budgeteer-production",
        {
            "Usage": {"Type": "AWS::DynamoDB::Table", "Properties": table},
            "Logs": {"Type": "AWS::S3::Bucket", "Properties": bucket},
        },
    )


@dataclass(frozen=True)
class System:
    """How a page's story begins, and what it must come to.

    `kinds` are those of the clusters that come under watch. The page finds them with a role that reads
    (`discovers`), or in files; `is_shut_out`: a new key's policy does not let it in yet, and `doctor` says so;
    `sees_an_outage`: KeyVigil is waited for when the key goes and returns, which is the same for keys of the same use.
    """

    set_up: Callable[[Scene], None]
    kinds: tuple[str, ...]
    use: str = "service"
    discovers: bool = False
    is_shut_out: bool = False
    sees_an_outage: bool = False


TOLD = {
    "zilliz-cmek": System(nothing, ("zilliz-dedicated",), use="cmek", sees_an_outage=True),
    "zilliz-byoc": System(a_cluster_in_terraform, ("zilliz-byoc",), use="cse", sees_an_outage=True),
    "minio-kes": System(a_kes_server, ("minio-kes",), use="kes", sees_an_outage=True),
    "bedrock-budgeteer": System(a_cdk_application, ("aws-dynamodb", "aws-s3"), is_shut_out=True, sees_an_outage=True),
    "rds": System(a_database_that_rds_has_stopped, ("aws-rds",)),
    "s3": System(a_bucket, ("aws-s3",), discovers=True),
    "lambda": System(a_stack_with_a_function, ("aws-lambda",)),
    "secretsmanager": System(a_stack_with_a_secret, ("aws-secretsmanager",)),
    "dynamodb": System(a_table, ("aws-dynamodb",), discovers=True),
    "cloudtrail": System(a_trail, ("other",), discovers=True, is_shut_out=True),
    "ssm": System(a_parameter, ("other",), discovers=True),
}


def tell(playground: Playground, pages: Pages, name: str, account: str) -> None:
    """Follow a system's page and what it shares with the others, from looking at the key to its return."""
    system, project_id = TOLD[name], f"acme-{name}"
    project = Project.create(playground.cloud.api(playground.outputs), project_id, enforcement="enforce")
    customer = CustomerAccount(playground.cloud.session(account), account)
    role = customer.role_for(playground.outputs["MonitorRoleArn"], project.external_id, project_id)
    key = customer.create_key(role, data_keys=system.use == "cse")
    scene = Scene(playground, account, key.key_arn, reader_of(playground, project_id, account))
    scene.reader.tell({"KEY_ARN": key.key_arn})
    system.set_up(scene)

    common = Page(COMMON)
    begin, read = (block.text for block in common.left if block.chapter == "Begin")
    scene.reader.paste(scene.reader.read(begin))
    if system.discovers:
        scene.reader.paste(scene.reader.read(read))
    with pages.open(f"docs/systems/{name}.md") as page:
        looked = page.follow(scene.reader, "What to run")
        assert ("ended with 3" in looked) is system.is_shut_out, looked
        assert_watched(project, key, system, looked)
        if system.sees_an_outage:
            outage = common.follow(scene.reader, "See it go")
            assert "KEY_DISABLED" in outage
            assert "aws kms enable-key" in outage
            for cluster in project.api.items("projects", project_id, "clusters"):
                assert cluster["cluster_id"] in outage
        else:
            customer.disable_key(key)
        page.follow(scene.reader, "When the key goes")
        if system.sees_an_outage:
            common.follow(scene.reader, "See it come back")
            assert project.wait_for_key_status(scene.reader.value("KEY_ID"), "HEALTHY")
        else:
            customer.enable_key(key)
        if any(block.chapter == "How it comes back" for block in page.left):
            page.follow(scene.reader, "How it comes back")


def assert_watched(project: Project, key: RegistrableKey, system: System, printed: str) -> None:
    [watched] = project.api.items("projects", project.project_id, "keys")
    assert (watched["key_arn"], watched["use"], watched["status"]) == (key.key_arn, system.use, "HEALTHY"), printed
    clusters = list(project.api.items("projects", project.project_id, "clusters"))
    assert sorted(each["kind"] for each in clusters) == sorted(system.kinds), printed
    assert {each["status"] for each in clusters} == {"ACTIVE"}


def reader_of(playground: Playground, project_id: str, account: str) -> Reader:
    """An operator whose profile `customer` is this account."""
    reader = playground.operator(project_id)
    reader.stands_for = {r"\bacme-prod\b": project_id, r"\b222222222222\b": account}
    secrets = reader.home / "credentials"
    profiles = {"operator": OPERATOR_ACCOUNT, "customer": account}
    secrets.write_text(
        "".join(
            f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = local-only\n"
            for name, key in profiles.items()
        ),
        encoding="utf-8",
    )
    reader.tell({"AWS_SHARED_CREDENTIALS_FILE": str(secrets)})
    return reader


@pytest.fixture(scope="module")
def told(playground: Playground, pages: Pages, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """All that were selected, begun at once."""
    wanted = [name for name in TOLD if any(f"[{name}]" in item.name for item in request.session.items)]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        yield {
            name: threads.submit(tell, playground, pages, name, f"3333333333{place:02}")
            for place, name in enumerate(wanted)
        }


@pytest.mark.parametrize("name", TOLD)
def test_a_system_comes_under_watch_loses_its_key_and_gets_it_back_by_its_page(
    told: dict[str, Future[None]], name: str
) -> None:
    told[name].result(timeout=_SECONDS)


def test_every_system_of_the_doctor_has_its_page_and_every_page_its_system() -> None:
    pages = {path.stem for path in (CHECKOUT.root / "docs" / "systems").glob("*.md")}
    # `stack` is any other stack, by its roles and services; `keyvigil` is docs/own-key.md.
    assert pages - {"README"} == set(TOLD) == set(SYSTEMS) - {"stack", "keyvigil"}
    first = (CHECKOUT.root / COMMON).read_text(encoding="utf-8")
    assert [name for name in TOLD if f"({name}.md)" not in first] == []
