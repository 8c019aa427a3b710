"""Which projects a customer's role serves: one, or those that shared it before that was refused."""

from collections.abc import Sequence
from dataclasses import replace

from keyvigil.domain.arns import role_account, role_name
from keyvigil.domain.keys import Key, RoleClaim

type Role = tuple[str, str]
"""A role's account, and its name in small letters: IAM does not tell names apart by case or path."""


def role_of(key: Key) -> Role:
    """The role that a key is probed with."""
    return role_account(key.role_arn) or key.account_id, role_name(key.role_arn).lower()


def counted(claim: RoleClaim | None, keys: Sequence[Key]) -> RoleClaim:
    """A role's claim, once it is known that these keys, at least one and all of one project, are probed with it.

    Who is there first has the claim; a project that comes later shares it, and is not turned away: its keys are
    registered, and what is under watch stays so.
    """
    project_id = keys[0].project_id
    if claim is None:
        account_id, _ = role_of(keys[0])
        name = role_name(keys[0].role_arn)
        return RoleClaim(account_id=account_id, role_name=name, project_id=project_id, keys=len(keys))
    if claim.project_id == project_id:
        return replace(claim, keys=len(keys))
    return replace(claim, sharing={**claim.sharing, project_id: len(keys)})


def released(claim: RoleClaim, project_id: str) -> RoleClaim | None:
    """The role's claim with one key of a project less; None if that was the last.

    When the project that has the claim leaves, the one that shares it with the most keys takes it over.
    """
    if project_id != claim.project_id:
        left = claim.sharing.get(project_id, 0) - 1
        others = {name: keys for name, keys in claim.sharing.items() if name != project_id}
        return replace(claim, sharing={**others, project_id: left} if left > 0 else others)
    if claim.keys > 1:
        return replace(claim, keys=claim.keys - 1)
    if not claim.sharing:
        return None
    heir = max(sorted(claim.sharing), key=lambda name: claim.sharing[name])
    others = {name: keys for name, keys in claim.sharing.items() if name != heir}
    return replace(claim, project_id=heir, keys=claim.sharing[heir], sharing=others)
