"""Leave out of botocore's data what no function calls: `python ship_botocore.py SITE`, when the layer is built.

No code of botocore is touched. Of its data stay the services that services.txt names, whole but for the texts that
document them, and their endpoints in every partition and Region. It stays as plain JSON, which is read faster than
compressed. Reading the rest is a fourth of what a first client costs (docs/decisions/0034-start-up.md).
"""

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

SERVICES = Path(__file__).with_name("services.txt")


def called() -> set[str]:
    """The services that functions call, as `create_client` names them."""
    return set(SERVICES.read_text(encoding="utf-8").split())


def leave_out(site: Path) -> None:
    """Take out of `site` what is not called.

    Raises:
        FileNotFoundError: botocore has no service of a name in services.txt.
    """
    data = site / "botocore" / "data"
    for folder in data.iterdir():
        if folder.is_dir() and folder.name not in called():
            shutil.rmtree(folder)
    prefixes = {_rewrite_service(data / name) for name in called()}
    endpoints = data / "endpoints.json"
    whole = json.loads(endpoints.read_text(encoding="utf-8"))
    for partition in whole["partitions"]:
        partition["services"] = {name: each for name, each in partition["services"].items() if name in prefixes}
    _write(endpoints, whole)


def _rewrite_service(folder: Path) -> str:
    """Rewrite a service's definitions; the name that endpoints.json has for it."""
    newest = max(each for each in folder.iterdir() if each.is_dir())
    for older in set(folder.iterdir()) - {newest}:
        shutil.rmtree(older)
    (newest / "examples-1.json").unlink(missing_ok=True)
    for packed in newest.glob("*.json.gz"):
        _write(packed.with_suffix(""), _without_documentation(json.loads(gzip.decompress(packed.read_bytes()))))
        packed.unlink()
    model = json.loads((newest / "service-2.json").read_text(encoding="utf-8"))
    return str(model["metadata"]["endpointPrefix"])


def _without_documentation(value: Any) -> Any:
    """A model without its texts. A member that is called `documentation` is no text, and stays."""
    match value:
        case dict():
            return {
                name: _without_documentation(each)
                for name, each in value.items()
                if name != "documentation" or not isinstance(each, str)
            }
        case list():
            return [_without_documentation(each) for each in value]
        case _:
            return value


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    leave_out(Path(sys.argv[1]))
