"""What the layer ships of botocore: the services that functions call, reached where botocore reaches them."""

import ast
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import botocore
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader
from botocore.model import ServiceModel

import ship_botocore
from tests.infra.source_template import ROOT

WHOLE = Path(botocore.__file__).parent / "data"
PYNAMODBS = {"dynamodb"}
"""What pynamodb asks for itself."""
PLACES = ("us-west-2", "eu-central-1", "cn-north-1", "us-gov-west-1", "us-iso-east-1", "xx-new-1")
VARIANTS = {
    "plain": Config(),
    "dual stack": Config(use_dualstack_endpoint=True),
    "FIPS": Config(use_fips_endpoint=True),
    "both": Config(use_dualstack_endpoint=True, use_fips_endpoint=True),
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """botocore's data as the layer has it, made from enough of the whole: what is called, and one that is not."""
    site = tmp_path_factory.mktemp("site")
    data = site / "botocore" / "data"
    data.mkdir(parents=True)
    for file in WHOLE.glob("*.json"):
        shutil.copy(file, data)
    for name in (*ship_botocore.called(), "sdb"):
        shutil.copytree(WHOLE / name, data / name)
    ship_botocore.leave_out(site)
    return data


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKEYVIGILITSELF01")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


@cache
def session_on(data: Path) -> botocore.session.Session:
    """A session for which these are botocore's own data: endpoints in any other place count as somebody's wish."""
    found = botocore.session.Session()
    own: type[Loader] = type("OwnLoader", (Loader,), {"BUILTIN_DATA_PATH": str(data)})
    found.register_component("data_loader", own())
    return found


def clients_made() -> set[str]:
    """The services whose clients the package and the functions make, by the text of their calls."""
    files = [*(ROOT / "layers/keyvigil/keyvigil").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    named = [
        call.args[0]
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in {"client", "create_client"} and call.args
    ]
    return {each.value for each in named if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def test_the_services_that_are_kept_are_those_that_are_called() -> None:
    assert ship_botocore.called() == clients_made() | PYNAMODBS


def test_the_rest_is_left_out(shipped: Path) -> None:
    assert {each.name for each in shipped.iterdir() if each.is_dir()} == ship_botocore.called()
    with pytest.raises(UnknownServiceError):
        session_on(shipped).create_client("sdb", "us-east-1")


def reached(core: botocore.session.Session, service: str, region: str, variant: str) -> Any:
    """Where a client goes and how it signs, or why there is none."""
    try:
        client: Any = core.create_client(service, region, config=VARIANTS[variant])
    except Exception as error:  # noqa: BLE001  whatever it says, both have to say it
        return type(error).__name__, str(error)
    resolved = client._resolve_endpoint_ruleset(
        client.meta.service_model.operation_model(client.meta.service_model.operation_names[0]),
        {},
        {"client_region": region, "client_config": client.meta.config, "has_streaming_input": False},
    )
    signer = client._request_signer
    return client.meta.endpoint_url, resolved, signer.signing_name, signer.region_name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("service", sorted(ship_botocore.called()))
def test_every_service_is_reached_where_the_whole_of_botocore_reaches_it(
    service: str, variant: str, shipped: Path
) -> None:
    some, whole = session_on(shipped), session_on(WHOLE)
    for region in PLACES:
        assert reached(some, service, region, variant) == reached(whole, service, region, variant), region


@pytest.mark.parametrize("service", sorted(ship_botocore.called()))
def test_a_service_keeps_all_it_can_do_and_loses_its_texts(service: str, shipped: Path) -> None:
    def model(data: Path) -> ServiceModel:
        return session_on(data).get_service_model(service)

    def shapes(of: ServiceModel) -> dict[str, Any]:
        described = {
            name: (of.shape_for(name).type_name, sorted(getattr(of.shape_for(name), "members", ())))
            for name in of.shape_names
        }
        return dict(described)

    some, whole = model(shipped), model(WHOLE)
    assert some.operation_names == whole.operation_names
    assert some.metadata == whole.metadata
    assert some.signature_version == whole.signature_version
    assert shapes(some) == shapes(whole)
    assert whole.documentation
    assert not some.documentation


def test_what_is_left_is_small(shipped: Path) -> None:
    assert sum(each.stat().st_size for each in shipped.rglob("*") if each.is_file()) < 3_000_000
