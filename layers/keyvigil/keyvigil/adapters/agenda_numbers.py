"""The number by which the index lists an item: when it is due, and of a key also what its next probe asks for.

The index has keys only, and cannot be given more without being made anew. So what a sweep must know of a key, and
would have to read it for, stands in the fraction of its due time: 24 digits of the 25 that a number of DynamoDB has
left beside the milliseconds. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html

The digits, in their order: 12 the account of the key's role; 2 for how many minutes from the due time on probes are
lean; 3 after how many the closer look is due; 1 how many cryptographic operations a whole check has; 1 whether there
is an alias (1) and whether a workflow probes the key (2); 4 the number of the custom key store; 1 that is always 1,
because DynamoDB drops noughts at a number's end. Earlier versions wrote the account alone, and before that nothing.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from keyvigil.domain.keys import Key
from keyvigil.domain.quotas import THE_MOST, NextProbe, next_probe

_ACCOUNT = 12
_ALL = 24
_MINUTE = timedelta(minutes=1)


def milliseconds(moment: datetime) -> int:
    """A moment as Unix milliseconds."""
    return int(moment.timestamp() * 1000)


def moment_of(number: float | Decimal) -> datetime:
    """The moment of such a number, whatever its fraction."""
    return datetime.fromtimestamp(int(number) / 1000, UTC)


def key_number(key: Key) -> Decimal:
    """The number by which a key is listed."""
    probe = next_probe(key)
    flags = probe.alias + 2 * probe.in_workflow
    fraction = (
        f"{key.role_arn.split(':')[4]}{_minutes(probe.lean_for, 99):02}{_minutes(probe.looks_after, 999):03}"
        f"{probe.cryptographic}{flags}{probe.key_store:04}1"
    )
    return Decimal(f"{milliseconds(key.due_at)}.{fraction}")


def account_of(number: Decimal | None) -> str | None:
    """The account of the key's role, None if the number is too old to have it."""
    digits = _digits(number)[:_ACCOUNT]
    return digits.ljust(_ACCOUNT, "0") if digits.strip("0") else None


def probe_of(number: Decimal | None) -> NextProbe:
    """What the key's next probe asks for; the most that one can, if the number is too old to tell."""
    digits = _digits(number)
    if len(digits) != _ALL:
        return THE_MOST
    return NextProbe(
        lean_for=int(digits[12:14]) * _MINUTE,
        looks_after=int(digits[14:17]) * _MINUTE,
        cryptographic=int(digits[17]),
        alias=bool(int(digits[18]) & 1),
        in_workflow=bool(int(digits[18]) & 2),
        key_store=int(digits[19:23]),
    )


def _digits(number: Decimal | None) -> str:
    return str(number or 0).partition(".")[2]


def _minutes(length: timedelta, most: int) -> int:
    """Whole minutes, rounded down: better a probe that is taken for whole, or for looking closely, than the reverse."""
    return min(max(length // _MINUTE, 0), most)
