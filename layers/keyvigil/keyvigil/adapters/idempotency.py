"""Where answers are kept for callers who repeat themselves: the same table, through Powertools."""

from aws_lambda_powertools.utilities.idempotency.persistence.dynamodb import DynamoDBPersistenceLayer

from keyvigil.adapters.aws import config, session

PARTITION = "IDEMPOTENCY"
"""The one partition that they lie in; template.yaml lets the API update nothing but this."""


def kept_answers(table_name: str) -> DynamoDBPersistenceLayer:
    """The persistence layer on KeyVigil's table. The table's time to live deletes what expired."""
    return DynamoDBPersistenceLayer(
        table_name=table_name,
        key_attr="pk",
        static_pk_value=PARTITION,
        sort_key_attr="sk",
        expiry_attr="expires_at",
        boto3_client=session().client("dynamodb", config=config()),
    )
