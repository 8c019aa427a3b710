"""How fast KMS keys can be checked on one core, against what others do. `make bench` runs it; README has the figures.

A check is DescribeKey, Encrypt and Decrypt. Every case runs in a process of its own, pinned to one core, against the
endpoint of endpoint.py, pinned to another. Rounds are shuffled, so that what else the machine does falls on all alike.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KEYS = 200
THREADS = 48
PLAINTEXT = b"KeyVigil availability probe"
CONTEXT = {"keyvigil:made-for": "acme-prod"}
REGION = "us-west-2"
PAIRS = 400
OWN_CONNECTIONS = 96


def key_arn(number: int) -> str:
    return f"arn:aws:kms:{REGION}:222222222222:key/00000000-0000-4000-8000-{number % KEYS:012d}"


##### The cases, each in a process of its own: they import what they measure and nothing else


def check(kms: Any, number: int) -> None:
    arn = key_arn(number)
    assert kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == "Enabled"
    sealed = kms.encrypt(KeyId=arn, Plaintext=PLAINTEXT, EncryptionContext=CONTEXT)["CiphertextBlob"]
    assert kms.decrypt(KeyId=arn, CiphertextBlob=sealed, EncryptionContext=CONTEXT)["Plaintext"] == PLAINTEXT


def in_threads(make: Callable[[], Any], threads: int) -> Callable[[int], None]:
    kms = make()
    pool = ThreadPoolExecutor(threads)

    def run(count: int) -> None:
        for _ in pool.map(lambda number: check(kms, number), range(count)):
            pass

    return run


def plain_client(connections: int = 10) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("kms", config=Config(max_pool_connections=connections))


def urllib3_client() -> Any:
    from keyvigil.adapters.aws import config, session
    from keyvigil.adapters.kms_calls import KmsCalls
    from keyvigil.adapters.kms_transport import Urllib3Kms

    client = session().client("kms", config=config(connections=THREADS))
    KmsCalls().watch(client)
    return Urllib3Kms(client, session().get_credentials())


def naive() -> Callable[[int], None]:
    kms = plain_client()

    def run(count: int) -> None:
        for number in range(count):
            check(kms, number)

    return run


def client_per_key() -> Callable[[int], None]:
    def run(count: int) -> None:
        for number in range(count):
            check(plain_client(), number)

    return run


def aiobotocore() -> Callable[[int], None]:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    async def one(kms: Any, number: int) -> None:
        arn = key_arn(number)
        await kms.describe_key(KeyId=arn)
        sealed = (await kms.encrypt(KeyId=arn, Plaintext=PLAINTEXT, EncryptionContext=CONTEXT))["CiphertextBlob"]
        opened = await kms.decrypt(KeyId=arn, CiphertextBlob=sealed, EncryptionContext=CONTEXT)
        assert opened["Plaintext"] == PLAINTEXT

    async def checks(count: int) -> None:
        waiting = iter(range(count))

        async def worker(kms: Any) -> None:
            for number in waiting:
                await one(kms, number)

        async with get_session().create_client("kms", config=AioConfig(max_pool_connections=THREADS)) as kms:
            await asyncio.gather(*(worker(kms) for _ in range(THREADS)))

    return lambda count: asyncio.run(checks(count))


def own_http() -> Callable[[int], None]:
    from benchmarks.own_http import checks

    return checks(key_arn, REGION, PLAINTEXT, CONTEXT, OWN_CONNECTIONS)


def session_per_pair() -> Callable[[int], None]:
    import boto3

    sts = boto3.client("sts")
    kept = []

    def run(count: int) -> None:
        for number in range(count):
            given = sts.assume_role(RoleArn=role_arn(number), RoleSessionName="bench", ExternalId="external-id")[
                "Credentials"
            ]
            tenant = boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
            kms = tenant.client("kms", region_name=region(number))
            kms.describe_key(KeyId=key_arn(number))
            kept.append((tenant, kms))

    return run


def keyvigil_pairs(transport: str) -> Callable[[int], None]:
    from keyvigil.adapters.aws import acting_as
    from keyvigil.adapters.kms_prober import KmsProber

    class Clock:
        def now(self) -> datetime:
            return datetime.now(UTC)

    prober = KmsProber(Clock(), monitor_role_arn="arn:aws:iam::111111111111:role/keyvigil-monitor", transport=transport)

    def run(count: int) -> None:
        for number in range(count):
            credentials, _ = prober._role_credentials().get(role_arn(number), "external-id", "acme-prod")
            with acting_as(credentials):
                prober._kms(region(number)).describe_key(KeyId=key_arn(number))

    return run


def role_arn(number: int) -> str:
    return f"arn:aws:iam::222222222222:role/customer-{number // 4:04d}"


def region(number: int) -> str:
    return ("us-west-2", "us-east-1", "eu-west-1", "eu-central-1")[number % 4]


@dataclass(frozen=True)
class Case:
    make: Callable[[], Callable[[int], None]]
    checks: int
    table: str = "throughput"
    warm: int = 1


CASES: dict[str, Case] = {
    "naive boto3": Case(naive, 60),
    "boto3, a client per key": Case(client_per_key, 25),
    "boto3, 16 threads": Case(lambda: in_threads(lambda: plain_client(16), 16), 500),
    f"boto3, {THREADS} threads": Case(lambda: in_threads(lambda: plain_client(THREADS), THREADS), 500),
    "aiobotocore": Case(aiobotocore, 500),
    "KeyVigil, boto3, 20 threads": Case(lambda: in_threads(lambda: plain_client(20), 20), 500),
    "KeyVigil, urllib3, 20 threads": Case(lambda: in_threads(urllib3_client, 20), 700),
    f"KeyVigil, urllib3, {THREADS} threads": Case(lambda: in_threads(urllib3_client, THREADS), 1000),
    "a trial, not shipped: HTTP and signature of our own": Case(own_http, 3000),
    "a Session for each pair": Case(session_per_pair, 100, "tenants", warm=0),
    "KeyVigil, boto3": Case(lambda: keyvigil_pairs("boto3"), PAIRS, "tenants", warm=0),
    "KeyVigil, urllib3": Case(lambda: keyvigil_pairs("urllib3"), PAIRS, "tenants", warm=0),
}


def memory_now() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_case(name: str, core: int, checks: int | None) -> None:
    os.sched_setaffinity(0, {core})
    case = CASES[name] if checks is None else replace(CASES[name], checks=checks, warm=0)
    run = case.make()
    run(case.warm * THREADS if case.warm and case.checks > 100 else case.warm)
    memory = memory_now()
    cpu, began = time.process_time(), time.monotonic()
    run(case.checks)
    seconds, spent = time.monotonic() - began, time.process_time() - cpu
    print(
        json.dumps(
            {
                "per_second": case.checks / seconds,
                "cpu_per_1000": spent / case.checks * 1000,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "grown_mb_per_1000": (memory_now() - memory) / case.checks * 1000,
                "seconds": seconds,
            }
        )
    )


##### The endpoint


@dataclass(frozen=True)
class Running:
    port: int
    scheme: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    def stats(self, trusted: Path | None) -> dict[str, float]:
        import ssl

        context = ssl.create_default_context(cafile=str(trusted)) if trusted else None
        with urllib.request.urlopen(f"{self.url}/_stats", context=context, timeout=30) as answer:
            told: dict[str, float] = json.load(answer)
            return told


def throw_away_authority(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and the authority that signed it and nothing else."""
    from tests.integration.tls_server import Authority

    return Authority(folder).certificate("localhost"), folder / "authority.pem"


@contextmanager
def endpoint(*options: str, core: int, certificate: Path | None = None) -> Iterator[Running]:
    arguments = [sys.executable, str(HERE / "endpoint.py"), "--core", str(core), *options]
    if certificate:
        arguments += ["--certificate", str(certificate)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Running(int(process.stdout.readline()), "https" if certificate else "http")  # type: ignore[union-attr]
        finally:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait(timeout=30)


def environment(url: str, trusted: Path | None) -> dict[str, str]:
    """What a case's process sees: nothing of the caller's AWS settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    trust = {"AWS_CA_BUNDLE": str(trusted)} if trusted else {}
    return (
        kept
        | trust
        | {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "AKIABENCHMARK0000001",
            "AWS_SECRET_ACCESS_KEY": "made-up",
            "AWS_SESSION_TOKEN": "t" * 600,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent / "layers" / "keyvigil"), str(HERE.parent)]),
        }
    )


##### What is told


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def shown(values: dict[str, float], digits: int) -> str:
    return " / ".join(f"{values[each]:,.{digits}f}" for each in ("min", "median", "max"))


def ratio(of: dict[str, Any], to: dict[str, Any], what: str) -> float:
    return float(of[what]["median"]) / (float(to[what]["median"]) or float("nan"))


def table_of(results: dict[str, dict[str, Any]], kind: str) -> Iterator[str]:
    base = {"throughput": "naive boto3", "tenants": "a Session for each pair"}[kind]
    if kind == "throughput":
        yield "| case | checks/s, min / median / max | x naive | x 16 threads "
        yield "| CPU s for 1,000 checks, min / median / max "
        yield "| CPU x naive | CPU x 16 threads | peak MB | endpoint's CPU |\n|---|---|---|---|---|---|---|---|---|\n"
    else:
        yield "| case | CPU s for 1,000 pairs, min / median / max | CPU x | MB for 1,000 pairs, median | memory x "
        yield "| endpoint's CPU |\n|---|---|---|---|---|---|\n"
    for name, each in results.items():
        if CASES[name].table != kind:
            continue
        cpu = shown(each["cpu_per_1000"], 2)
        share = f"{each['endpoint_share']['median']:.0%}"
        if kind == "throughput":
            one, sixteen = results[base], results["boto3, 16 threads"]
            yield (
                f"| {name} | {shown(each['per_second'], 0)} | {ratio(each, one, 'per_second'):.1f} "
                f"| {ratio(each, sixteen, 'per_second'):.2f} | {cpu} | {ratio(each, one, 'cpu_per_1000'):.2f} "
                f"| {ratio(each, sixteen, 'cpu_per_1000'):.2f} | {each['peak_mb']['median']:.0f} | {share} |\n"
            )
        else:
            yield (
                f"| {name} | {cpu} | {ratio(each, results[base], 'cpu_per_1000'):.3f} "
                f"| {each['grown_mb_per_1000']['median']:,.0f} | {ratio(each, results[base], 'grown_mb_per_1000'):.3f} "
                f"| {share} |\n"
            )


def written(results: dict[str, dict[str, Any]], about: dict[str, Any]) -> str:
    peer = CASES["a Session for each pair"].checks
    tls = "TLS" if about["tls"] else "no TLS"
    head = f"""# What `make bench` measured

{about["at"]}, Python {about["python"]}, {about["processors"]} cores, load {about["load_before"]} before and
{about["load_after"]} after; {about["rounds"]} shuffled rounds; {about["latency_ms"]:g} ms latency, {tls}.
Client and endpoint are pinned to one core each. The endpoint's CPU is its share of its core: near 100 %, it was the
limit and not the case.

"""
    between = f"""
{PAIRS} (role, Region) pairs in one process: AssumeRole and DescribeKey for each, and nothing is thrown away. The peer
does {peer} of them, since its cost is linear.

"""
    return "".join([head, *table_of(results, "throughput"), between, *table_of(results, "tenants")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", help="run one case in this process (what the benchmark itself does)")
    parser.add_argument("--checks", type=int, help="so many checks in that case")
    parser.add_argument("--only", help="only cases with this in their names, the base of each table besides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=10)
    parser.add_argument("--slow-percent", type=float, default=0)
    parser.add_argument("--slow-ms", type=float, default=100)
    parser.add_argument("--quota", type=float)
    parser.add_argument("--no-tls", action="store_true")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--endpoint-core", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    if asked.case:
        run_case(asked.case, asked.core, asked.checks)
        return
    bases = {"naive boto3", "boto3, 16 threads", "a Session for each pair"}
    names = [name for name in CASES if not asked.only or asked.only in name or name in bases]
    about: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "rounds": asked.rounds,
        "latency_ms": asked.latency_ms,
        "tls": not asked.no_tls,
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        certificate, trusted = (None, None) if asked.no_tls else throw_away_authority(Path(folder))
        options = ["--latency-ms", str(asked.latency_ms)]
        options += ["--slow-percent", str(asked.slow_percent), "--slow-ms", str(asked.slow_ms)]
        options += ["--quota", str(asked.quota)] if asked.quota else []
        with endpoint(*options, core=asked.endpoint_core, certificate=certificate) as server:
            for number in range(asked.rounds):
                order = random.sample(names, len(names))
                for name in order:
                    before = server.stats(trusted)
                    done = subprocess.run(
                        [sys.executable, __file__, "--case", name, "--core", str(asked.core)],
                        env=environment(server.url, trusted),
                        stdout=subprocess.PIPE,
                        check=True,
                        timeout=600,
                    )
                    got = json.loads(done.stdout)
                    used = server.stats(trusted)["cpu_seconds"] - before["cpu_seconds"]
                    got["endpoint_share"] = used / got["seconds"]
                    measured[name].append(got)
                    print(f"round {number + 1}: {name}: {got['per_second']:.0f}/s", file=sys.stderr)
    about["load_after"] = round(os.getloadavg()[0], 1)
    results = {
        name: {what: spread([each[what] for each in runs]) for what in runs[0]} for name, runs in measured.items()
    }
    asked.results.mkdir(parents=True, exist_ok=True)
    text = written(results, about)
    (asked.results / "bench.md").write_text(text, encoding="utf-8")
    whole = {"about": about, "results": results, "rounds": measured}
    (asked.results / "bench.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
