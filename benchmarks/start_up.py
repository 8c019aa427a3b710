"""`make bench-start-up`: how long each function takes to be ready, as a ratio to `import boto3; boto3.client("kms")`.

Ready means: `app.py` imported, every use case that it names wired, and the AWS clients made that its first event uses.
What it is compared with is boto3 as pip installs it, whole and with byte code; the functions run on the layers.
Each measurement is a process of its own on the artifacts of `make build`, pinned to one core; the rounds are shuffled,
so that whatever else the machine does falls on all alike. CPU seconds are compared: they say the same on a busy
machine. Results go to start_up.json and start_up.md beside this file.
"""

import ast
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILT = ROOT / ".aws-sam" / "build"
BASE = 'import boto3; boto3.client("kms")'
PROMISED = {"check_keys": 1.15}
PROMISED_OTHERS = 1.5

# The clients of the first event. What a use case asks the table for needs DynamoDB's.
CLIENTS = {
    "check_keys": ("kms", "sts", "dynamodb"),
    "call_receiver": ("dynamodb",),
    "receive_key_event": ("dynamodb", "sqs"),
    "plan_sweep": ("dynamodb", "sqs"),
    "relay_outbox": ("dynamodb", "sns"),
}

# The API wires a use case when a route asks for it. Its first request here is one that creates, up to where its body is
# refused: routed and validated, but nobody asked.
FIRST_REQUEST = {
    "rawPath": "/projects",
    "rawQueryString": "",
    "headers": {"content-type": "application/json"},
    "requestContext": {"http": {"method": "POST", "path": "/projects"}, "stage": "$default"},
    "body": "{}",
}
API_READY = f"""
import app
from keyvigil import wiring
wiring.projects()
assert app.handle({FIRST_REQUEST!r}, None)["statusCode"] == 422
"""
# What only a request with an Idempotency-Key needs.
API_KEEPS_ANSWERS = """
import keyvigil.api.idempotency
wiring.kept_answers()
"""
KEEPS_ANSWERS = "registry_api, Idempotency-Key"

MEASURED = """
import time, sys
wall, cpu = time.perf_counter(), time.process_time()
{code}
print(time.perf_counter() - wall, time.process_time() - cpu, len(sys.modules))
"""


class _Loader(yaml.SafeLoader):
    """Reads a template; what CloudFormation fills in becomes a placeholder."""


_Loader.add_multi_constructor("!", lambda _loader, suffix, _node: f"placeholder-{suffix}")


def wired(source: str) -> list[str]:
    """What an `app.py` asks `wiring` for, in the order of the text."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = [
        each.func.attr
        for each in calls
        if isinstance(each.func, ast.Attribute)
        and isinstance(each.func.value, ast.Name)
        and each.func.value.id == "wiring"
    ]
    return sorted(set(found))


def ready(function: str) -> str:
    """The program that makes a function ready."""
    if function.startswith("registry_api"):
        clients = "\n".join(_clients(("dynamodb",)))
        return API_READY + (API_KEEPS_ANSWERS if function == KEEPS_ANSWERS else "") + clients
    names = wired((ROOT / "functions" / function / "app.py").read_text(encoding="utf-8"))
    lines = ["import app", "from keyvigil import wiring", *(f"wiring.{name}()" for name in names)]
    return "\n".join([*lines, *_clients(CLIENTS.get(function, ("dynamodb",)))])


def _clients(clients: tuple[str, ...]) -> list[str]:
    lines = ["from keyvigil.adapters.aws import config, session"] if set(clients) - {"dynamodb"} else []
    lines += [f"session().client({client!r}, config=config())" for client in clients if client != "dynamodb"]
    if "dynamodb" in clients:
        # As the store does at its first request.
        lines += ["from pynamodb.connection import Connection", "Connection(region='us-east-1').client"]
    return lines


def environments() -> dict[str, dict[str, str]]:
    """The variables of each function, as the template names them."""
    template = yaml.load((ROOT / "template.yaml").read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  a SafeLoader
    shared = template["Globals"]["Function"]["Environment"]["Variables"]
    found = {}
    for resource in template["Resources"].values():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Serverless::Function" and isinstance(properties.get("CodeUri"), str):
            own = properties.get("Environment", {}).get("Variables", {})
            values = {name: str(value) for name, value in {**shared, **own}.items()}
            for name, value in values.items():
                if value == "placeholder-FindInMap" or name.endswith(("PROBES", "ACCOUNTS", "PERCENT", "MINUTES")):
                    values[name] = "3"
                if name.endswith("ARN"):
                    values[name] = "arn:aws:service:us-east-1:111111111111:thing/placeholder"
            values["POWERTOOLS_LOG_LEVEL"] = "INFO"
            found[Path(properties["CodeUri"]).name] = values
    return found


def measure(code: str, folder: Path, variables: dict[str, str]) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and the number of modules of one fresh process."""
    layers = [BUILT / "KeyVigilLayer" / "python", BUILT / "ApiLayer" / "python"] if code != BASE else []
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, layers)),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_LAMBDA_FUNCTION_NAME": "measured",
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    command = [sys.executable, "-c", MEASURED.format(code=code)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  this interpreter
    if done.returncode:
        message = f"{folder.name} did not get ready:\n{done.stderr}"
        raise RuntimeError(message)
    wall, cpu, modules = done.stdout.split()[-3:]
    return float(wall), float(cpu), int(modules)


def megabytes(folder: Path) -> float:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) / 1e6


def run(rounds: int) -> dict[str, Any]:
    """Measure everything in shuffled rounds."""
    variables = environments()
    cases: dict[str, tuple[str, Path, dict[str, str]]] = {"boto3": (BASE, ROOT / "functions" / "check_keys", {})}
    cases |= {name: (ready(name), ROOT / "functions" / name, variables[name]) for name in sorted(variables)}
    cases[KEEPS_ANSWERS] = (ready(KEEPS_ANSWERS), ROOT / "functions" / "registry_api", variables["registry_api"])
    measured: dict[str, list[tuple[float, float, int]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name in random.sample(sorted(cases), len(cases)):
            measured[name].append(measure(*cases[name]))
    base = median(cpu for _, cpu, _ in measured["boto3"])
    rows = {
        name: {
            "cpu_min": min(cpu for _, cpu, _ in each),
            "cpu_median": median(cpu for _, cpu, _ in each),
            "cpu_max": max(cpu for _, cpu, _ in each),
            "wall_median": median(wall for wall, _, _ in each),
            "ratio": median(cpu for _, cpu, _ in each) / base,
            "promised": None if name == "boto3" else PROMISED.get(name, PROMISED_OTHERS),
            "modules": each[0][2],
            "app_kilobytes": None if name == "boto3" else (cases[name][1] / "app.py").stat().st_size / 1000,
        }
        for name, each in measured.items()
    }
    sizes = {layer: megabytes(BUILT / layer / "python") for layer in ("KeyVigilLayer", "ApiLayer")}
    return {"rounds": rounds, "python": sys.version.split()[0], "layers_megabytes": sizes, "functions": rows}


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['rounds']} shuffled rounds, Python {result['python']}, CPU milliseconds of a fresh process.",
        "",
        "| function | min | median | max | ratio | promised | modules | app.py, KB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["functions"].items():
        milliseconds = " | ".join(f"{row[f'cpu_{which}'] * 1000:.0f}" for which in ("min", "median", "max"))
        promised = "" if row["promised"] is None else f"{row['promised']:.2f}"
        size = "" if row["app_kilobytes"] is None else f"{row['app_kilobytes']:.0f}"
        lines.append(f"| {name} | {milliseconds} | {row['ratio']:.2f} | {promised} | {row['modules']} | {size} |")
    lines += ["", *(f"{layer}: {size:.1f} MB unpacked." for layer, size in result["layers_megabytes"].items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    rounds = int(sys.argv[1]) if sys.argv[1:] else 15
    if not (BUILT / "KeyVigilLayer").exists():
        sys.exit("The layers are not built: `make build` builds them.")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result = run(rounds)
    (HERE / "start_up.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE / "start_up.md").write_text(table(result), encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
