"""The canaries beside the stack's own, as the operator registers them: for other Regions, or in a second account."""

from keyvigil.domain.arns import parse_kms_arn, role_account
from keyvigil.domain.canaries import (
    MAX_CANARIES,
    STACKS_OWN,
    Canary,
    CanaryChange,
    notice_of,
    take,
)
from keyvigil.domain.verdicts import Outcome
from keyvigil.errors import AlreadyExistsError, CheckerUnavailableError, ConflictError, NotFoundError, RefusedError
from keyvigil.ports import Clock, Ids, KeyChecker, Put, Remove, Store, Write
from keyvigil.use_cases.registry import invalid_key_arn, invalid_role_arn, refuse_verdict, role_without_external_id
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


class Canaries:
    """Registers, lists and removes canaries. One is probed before it is stored, as a customer's key is."""

    def __init__(
        self, store: Store, checker: KeyChecker, clock: Clock, ids: Ids, *, external_id: str, monitor_role_arn: str
    ) -> None:
        """Keep the ports. `external_id` is the one that the roles of all this stack's canaries ask for."""
        self._store = store
        self._checker = checker
        self._clock = clock
        self._telling = Telling(clock, ids)
        self.external_id = external_id
        self._monitor_role_arn = monitor_role_arn

    def all(self) -> list[Canary]:
        """All canaries that were probed or registered, by id."""
        return self._store.canaries()

    def register(self, key_arn: str, role_arn: str) -> Canary:
        """Probe a canary's role and key, and store it if it is HEALTHY.

        Raises:
            RefusedError: the request, the role or the key is not as it must be.
            AlreadyExistsError: the key is a canary already.
        """
        parsed = parse_kms_arn(key_arn)
        if parsed is None or parsed.kms_key_id is None:
            raise invalid_key_arn()
        account = role_account(role_arn)
        if account is None:
            raise invalid_role_arn()
        if account != parsed.account_id:
            raise RefusedError(
                422,
                "KMS key and role are in different accounts",
                f"The key is in account {parsed.account_id}, the role in {account}. Make the role in the key's "
                "account.",
            )
        wanted = Canary(
            canary_id=parsed.key_id,
            key_arn=parsed.arn,
            region=parsed.region,
            account_id=parsed.account_id,
            role_arn=role_arn,
            external_id=self.external_id,
            created_at=self._clock.now(),
        )
        self._check_room(wanted)
        answer = self._checker.probe_registration(wanted.as_registration())
        if answer.role_checks_external_id is False:
            raise role_without_external_id(role_arn, self.external_id, self._monitor_role_arn)
        if answer.verdict.outcome is not Outcome.HEALTHY:
            raise refuse_verdict(answer.verdict, role_arn)
        if answer.baseline is None:
            message = "check_keys answered without a ciphertext"
            raise CheckerUnavailableError(message)
        canary, _ = take(wanted, answer.verdict, ended_at=self._clock.now(), baseline=answer.baseline)
        try:
            self._store.commit([Put(canary)])
        except ConflictError as error:
            raise _already(canary) from error
        return canary

    def _check_room(self, wanted: Canary) -> None:
        known = self._store.canaries()
        if any(each.key_arn == wanted.key_arn for each in known):
            raise _already(wanted)
        if sum(each.canary_id != STACKS_OWN for each in known) >= MAX_CANARIES:
            raise RefusedError(
                409,
                "Too many canaries",
                f"At most {MAX_CANARIES} can be registered: each is probed every minute. Delete one first.",
            )

    def remove(self, canary_id: str) -> None:
        """Forget a canary. If its alert is firing, that is resolved in the same transaction.

        Raises:
            NotFoundError: there is none.
            RefusedError: it is the stack's own.
        """
        if canary_id == STACKS_OWN:
            raise RefusedError(
                409,
                "Canary belongs to the stack",
                "The stack's own canary goes with the stack. Mend its role or key if it is not HEALTHY.",
            )

        def forget() -> None:
            canary = self._store.canary(canary_id)
            if canary is None:
                message = f"canary {canary_id} is not registered"
                raise NotFoundError(message)
            writes: list[Write] = [Remove(canary)]
            if canary.told:
                writes.append(self._telling.fleet_notice(notice_of(canary, CanaryChange.WAS_REMOVED)))
            self._store.commit(writes)

        until_committed(forget)


def _already(canary: Canary) -> AlreadyExistsError:
    message = f"key {canary.key_arn} is a canary already"
    return AlreadyExistsError(message)
