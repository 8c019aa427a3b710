"""Reads accounts: what every service and KMS say, in a bounded number of threads, put together into one inventory."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Self

from keyvigil_cli.discovery.aws_calls import AWS_ERRORS, CLOSED, Account, Service, unread_because
from keyvigil_cli.discovery.keeping import ill_kept, ill_kept_resource
from keyvigil_cli.discovery.kms_keys import account_of, described, is_alias, is_of_aws, key_arn, read_keys, region_of
from keyvigil_cli.discovery.model import Inventory, Key, KeyUse, Manager, Place, Reading, Resource, Unread, Weight
from keyvigil_cli.discovery.readers import Read, Reader, readers

THREADS = 8
"""Reads at the same time: each service has its own quota, and a laptop its own patience."""

type News = Callable[[str], None]


def discover(
    accounts: Sequence[Account],
    regions: Sequence[str],
    *,
    taken_at: datetime,
    unread: Sequence[Unread] = (),
    news: News = lambda _words: None,
) -> Inventory:
    """Read all accounts in all Regions. `unread` is what is known to be out of reach already.

    What is denied, throttled to the end, or not there is part of the answer and no exception.
    """
    regions = tuple(dict.fromkeys(regions))
    of_id = {each.account_id: each for each in accounts}
    places = [Place(each, region) for each in of_id for region in regions]
    with _Pool(of_id, news) as pool:
        keys = pool.read_all([(place, Reader("kms", (), read_keys)) for place in places])
        open_places = [
            place for place, found in zip(places, keys, strict=True) if not any(e.code in CLOSED for e in found.unread)
        ]
        services = pool.read_all([(place, reader) for place in open_places for reader in readers(regions)])
        known = Reading.merged([*keys, *services])
        named = _named(known)
        strange = pool.read_all(_strange_keys(named, known, of_id))
    whole = Reading.merged([known, *strange])
    answered = sum(not any(each.what in _SERVICES for each in found.unread) for found in (*keys, *services))
    return _inventory(whole, named, places, [*unread, *_collapsed(whole.unread)], taken_at, answered)


_SERVICES = frozenset({"kms", *(each.service for each in readers(()))})


class _Pool:
    """Threads that read, and news of how far they are."""

    def __init__(self, accounts: Mapping[str, Account], news: News) -> None:
        self._accounts = accounts
        self._news = news
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="discover")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        # On Ctrl-C only the reads that are under way are waited for.
        self._threads.shutdown(cancel_futures=True)

    def read_all(self, wanted: Sequence[tuple[Place, Reader]]) -> list[Reading]:
        """Read, and return what came in the order in which it was wanted."""
        futures = [self._threads.submit(self._read, place, reader.service, reader.read) for place, reader in wanted]
        under_way: dict[Future[Reading], str] = {
            future: f"{reader.service} in {place}" for future, (place, reader) in zip(futures, wanted, strict=True)
        }
        while under_way:
            self._news(f"{len(futures) - len(under_way)} of {len(futures)}; {next(iter(under_way.values()))}")
            done, _ = wait(under_way, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                del under_way[future]
        return [future.result() for future in futures]

    def _read(self, place: Place, service: str, read: Read) -> Reading:
        found = Reading()
        account = self._accounts[place.account_id]
        try:
            read(lambda name: account.calls(name, place.region), place, found)
        except AWS_ERRORS as error:
            partly = bool(found.resources or found.keys)
            found.unread.append(unread_because(error, place, service, partly=partly))
        return found


def _named(found: Reading) -> list[tuple[Resource, str | None]]:
    """Each resource with the ARN of the key that it means."""
    return [(each, key_arn(each.key, each.place, found.aliases) if each.key else None) for each in found.resources]


def _strange_keys(
    named: Sequence[tuple[Resource, str | None]], found: Reading, accounts: Mapping[str, Account]
) -> list[tuple[Place, Reader]]:
    """Keys that are named and were not listed: of other accounts, of other Regions, or gone.

    Each is asked for once, by its own account if that is one of ours.
    """
    listed = {each.arn for each in found.keys}
    wanted: dict[str, Place] = {}
    for resource, arn in named:
        if arn is None or arn in listed or is_alias(arn) or not region_of(arn):
            continue
        owner = account_of(arn)
        asking = owner if owner in accounts else resource.place.account_id
        wanted.setdefault(arn, Place(asking, region_of(arn)))

    def reader_of(arn: str) -> Read:
        def read(service: Service, place: Place, into: Reading) -> None:
            into.keys.append(described(service("kms"), arn, place, into, aliases_known=False))

        return read

    return [(place, Reader("kms", (), reader_of(arn))) for arn, place in wanted.items()]


def _collapsed(unread: Sequence[Unread]) -> list[Unread]:
    """Say once that a Region is closed, whatever was asked there."""
    closed = {each.place: each for each in unread if each.code in CLOSED}
    kept = [each for each in unread if each.place not in closed]
    return [
        *(Unread(place=place, what="everything", why=each.why, code=each.code) for place, each in closed.items()),
        *kept,
    ]


def _inventory(
    found: Reading,
    named: Sequence[tuple[Resource, str | None]],
    places: Sequence[Place],
    unread: Sequence[Unread],
    taken_at: datetime,
    answered: int,
) -> Inventory:
    keys = {each.arn: each for each in found.keys}
    under: dict[str, list[Resource]] = defaultdict(list)
    for resource, arn in named:
        if arn is None:
            continue
        keys.setdefault(arn, _unseen(arn, resource.place))
        under[arn].append(resource)
    uses = [
        KeyUse(key=key, resources=tuple(under[arn]), findings=tuple(ill_kept(key, under[arn])))
        for arn, key in keys.items()
        if key.manager is not Manager.AWS or under[arn]
    ]
    uses.sort(key=lambda each: (each.key.manager is Manager.AWS, -len(each.resources), each.key.arn))
    findings = [each for use in uses for each in use.findings]
    for resource, arn in named:
        findings += resource.findings
        findings += ill_kept_resource(resource, arn, aliases_are_known=resource.place in found.listed)
    findings.sort(key=lambda each: (each.weight is not Weight.UNHEALTHY, each.code, each.place, each.name))
    return Inventory(
        taken_at=taken_at,
        places=tuple(places),
        keys=tuple(uses),
        keyless=tuple(each for each, arn in named if arn is None and each.findings),
        findings=tuple(findings),
        unread=tuple(unread),
        notes=tuple(found.notes),
        answered=answered,
    )


def _unseen(arn: str, seen_from: Place) -> Key:
    """A key of which nothing is known but its name."""
    manager = Manager.AWS if is_of_aws(arn) else Manager.UNKNOWN
    account = account_of(arn)
    return Key(
        arn=arn,
        place=Place(account or seen_from.account_id, region_of(arn) or seen_from.region),
        manager=manager,
        of_other_account=bool(account) and account != seen_from.account_id,
        aliases=(arn.rpartition(":")[2],) if is_alias(arn) else (),
    )
