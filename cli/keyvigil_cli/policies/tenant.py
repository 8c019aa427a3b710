"""What lets a tenant's role call the API for its own project and no other: docs/api.md."""

import re

from keyvigil_cli.policies.customer_role import checked_account, checked_project
from keyvigil_cli.policies.documents import BadPolicyError, Document, document

_API_ID = re.compile(r"[a-z0-9]{6,20}\Z", re.ASCII)


def tenant_policy(api_id: str, *, account_id: str, region: str, project_id: str, read_only: bool = False) -> Document:
    """Return the policy of a tenant's role. `read_only`: it looks and changes nothing.

    The project and what is under it are two resources: `projects/acme*` would match `projects/acme-prod` too.

    Raises:
        BadPolicyError: something is not of its form.
    """
    if not _API_ID.match(api_id):
        message = f"{api_id} is not the id of an API: the stack's output ApiId"
        raise BadPolicyError(message)
    method = "GET" if read_only else "*"
    path = f"arn:aws:execute-api:{region}:{checked_account(account_id)}:{api_id}/*/{method}"
    project = f"{path}/projects/{checked_project(project_id)}"
    allowed = {
        "Sid": "CallTheApiForOneProject",
        "Effect": "Allow",
        "Action": "execute-api:Invoke",
        "Resource": [project, f"{project}/*"],
    }
    return document([allowed])
