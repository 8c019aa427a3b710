"""See that every key's role is claimed by its project. The first versions registered keys without claiming roles."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from keyvigil.domain.keys import Key, RoleClaim
from keyvigil.domain.role_claims import Role, counted, role_of
from keyvigil.errors import in_short
from keyvigil.ports import Clock, Put, RoleAudit, SharedRole, Store
from keyvigil.use_cases.read_fleet import every
from keyvigil.use_cases.retrying import until_committed

PROJECTS_A_SWEEP = 50
"""How many projects one sweep looks at: two reads each, and one for each role, of which there may be twenty. At some
milliseconds a read these are seconds of a sweep's 50."""

PROJECTS_A_REQUEST = 25
"""How many projects a registration looks at itself: it has 30 seconds, and its probe may take 25."""

_SHARED_ROLES_KEPT = 100


@dataclass(kw_only=True)
class AuditStep:
    """What was mended, as (account, role, project), which roles several projects share, and what could not be read.

    `shared` is there with the last step only.
    """

    claimed: list[tuple[str, str, str]] = field(default_factory=list)
    shared: tuple[SharedRole, ...] = ()
    errors: list[tuple[str, str]] = field(default_factory=list)


class AuditRoles:
    """Looks at every project's keys once, some projects at a time, and mends the claims on their roles.

    In `plan_sweep` that is once in the life of a sandbox, so once after each deployment and every few hours: keys that
    old code registered while a deployment was under way are found too. Doing it again changes nothing.
    """

    def __init__(self, store: Store, clock: Clock, *, at_once: int = PROJECTS_A_SWEEP) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._at_once = at_once
        self._done = False
        self._ever_finished = False
        self._begin()

    def _begin(self) -> None:
        self._token: str | None = None
        self._failed = False
        self._shared: dict[Role, SharedRole] = {}

    def __call__(self) -> AuditStep:
        """Look at the next projects; one that cannot be looked at does not keep the others from being."""
        step = AuditStep()
        if self._done:
            return step
        try:
            page = self._store.projects(self._at_once, self._token)
            for project in page.items:
                self._look_at_one(project.project_id, step)
            self._token = page.next_token
            if self._token is None:
                self._end(step)
        except Exception as error:  # noqa: BLE001  the sweep is done all the same, and the next one goes on with this
            step.errors.append(("roles", in_short(error)))
        return step

    def _look_at_one(self, project_id: str, step: AuditStep) -> None:
        try:
            self._look_at(project_id, step)
        except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
            step.errors.append((project_id, in_short(error)))
            self._failed = True

    def _end(self, step: AuditStep) -> None:
        """Keep what was found, unless a project could not be looked at: then all begins again."""
        shared, failed = self._shared, self._failed
        self._begin()
        if not failed:
            step.shared = tuple(each for _, each in sorted(shared.items()))[:_SHARED_ROLES_KEPT]
            self._store.record_role_audit(RoleAudit(finished_at=self._clock.now(), shared=step.shared))
            self._done = True

    def finished(self) -> bool:
        """Whether it is certain that a role without a claim is free; if not, look at some more projects first."""
        if not self._ever_finished:
            self._ever_finished = self._store.role_audit() is not None
        if not self._ever_finished:
            self()
            self._ever_finished = self._done
        return self._ever_finished

    def _look_at(self, project_id: str, step: AuditStep) -> None:
        roles = dict.fromkeys(map(role_of, self._keys(project_id)))
        claims = {role: self._store.role_claim(*role) for role in roles}
        # Read again after the claims, as in `_count`: what happened in between shows as a difference.
        keys = tuple(self._keys(project_id))
        for role, found in claims.items():
            claim, mine = found, [key for key in keys if role_of(key) == role]
            if mine and counted(claim, mine) != claim:
                claim, mended = until_committed(self._count, project_id, role)
                step.claimed += [(*role, project_id)] if mended else []
            if claim is not None and claim.sharing:
                project_ids = (claim.project_id, *sorted(claim.sharing))
                self._shared[role] = SharedRole(claim.account_id, claim.role_name, project_ids)

    def _count(self, project_id: str, role: Role) -> tuple[RoleClaim | None, bool]:
        """Count a project's keys with a role; write the claim if it was wrong, in one transaction with those keys.

        The claim is read before the keys: a key that comes to the role in between changes the claim, and one that
        leaves it changes itself, so that either makes this write fail.
        """
        claim = self._store.role_claim(*role)
        mine = [key for key in self._keys(project_id) if role_of(key) == role]
        mended = counted(claim, mine) if mine else claim
        if mended is None or mended == claim:
            return claim, False
        self._store.commit([Put(mended), *(Put(key) for key in mine)])
        return mended, True

    def _keys(self, project_id: str) -> Iterable[Key]:
        return every(partial(self._store.keys, project_id))
