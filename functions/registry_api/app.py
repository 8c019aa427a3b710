"""The registry API: what it routes, validates and answers is in `keyvigil.api`."""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil.api.app import handle

logger = Logger(service="registry_api")


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one request."""
    answer = handle(event, context)
    logger.info(
        "answered",
        extra={
            "route": event.get("routeKey"),
            "status": answer["statusCode"],
            "caller": event.get("requestContext", {}).get("authorizer", {}).get("iam", {}).get("callerId"),
        },
    )
    return answer
