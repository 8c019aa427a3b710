"""What a KES server's configuration says about the KMS key behind MinIO.

KES keeps its keys as secrets in AWS Secrets Manager, which encrypts them under `kmskey`. The forms that there were:
https://github.com/minio/kes, `server-config.yaml` of each release: `keys:` named the store up to 0.13, `keystore:`
does since 0.14, where `keys:` lists keys by name. A value may be a whole `${VARIABLE}` of KES's environment.
Credentials in the file are not looked at.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keyvigil_cli.imports.found import Dependent, Found, NotReadableError, Why, cluster_id_of
from keyvigil_cli.imports.kms_names import NotAKey, Place, account_of, key_arn_of
from keyvigil_cli.imports.yaml_texts import read_yaml

_WHAT = "what is wanted is KES's own server configuration (server-config.yaml)"
_ENDPOINT = re.compile(r"(?:https://)?secretsmanager(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com/?\Z")
_MOST_NAMES = 10
# What a store cannot be without; what the samples fill in with defaults does not make it one.
_ESSENTIAL: Mapping[str, tuple[str, ...]] = {
    "fs": ("path",),
    "encryptedfs": ("path",),
    "vault": ("endpoint",),
    "kes": ("endpoint",),
    "aws": ("secretsmanager", "endpoint"),
    "gcp": ("secretmanager", "project_id"),
    "azure": ("keyvault", "endpoint"),
    "fortanix": ("sdkms", "endpoint"),
    "gemalto": ("keysecure", "endpoint"),
    "entrust": ("keycontrol", "endpoint"),
}


class _UnresolvedError(Exception):
    """A value is a variable that nobody gave."""

    def __init__(self, variable: str) -> None:
        super().__init__(variable)
        self.variable = variable


@dataclass(frozen=True, slots=True)
class _Values:
    """Texts of the file, with KES's variables filled in."""

    variables: Mapping[str, str]

    def of(self, text: Any) -> str:
        """Return a value as KES would read it: a reference is the whole value, or it is none."""
        written = text.strip() if isinstance(text, str) else ""
        if not (written.startswith("${") and written.endswith("}")):
            return written
        name = written[2:-1].strip()
        if name not in self.variables:
            raise _UnresolvedError(name)
        return self.variables[name].strip()

    def shown(self, text: Any) -> str:
        """Return the same for a value that nothing depends on."""
        try:
            return self.of(text)
        except _UnresolvedError:
            return str(text)


def read_kes(
    content: bytes | str,
    source: str,
    *,
    variables: Mapping[str, str] | None = None,
    account_id: str = "",
    cluster_id: str | None = None,
    name: str | None = None,
) -> Found:
    """Read a KES server's configuration. `account_id` is where a key is that is named without its ARN.

    Raises:
        NotReadableError: it is something else.
    """
    document = read_yaml(content, _WHAT)
    if not isinstance(document, dict):
        raise NotReadableError(f"this says nothing; {_WHAT}")
    if "apiVersion" in document and "kind" in document:
        raise NotReadableError(
            f"this is an object of Kubernetes; {_WHAT}",
            "Take it out: kubectl get secret NAME -o jsonpath='{.data.server-config\\.yaml}' | base64 -d",
        )
    keys = document.get("keys")
    stores = document.get("keystore") or (keys if isinstance(keys, dict) else None)
    if not isinstance(stores, dict):
        raise NotReadableError(f"this names no key store (`keystore:`, or `keys:` before KES 0.14); {_WHAT}")
    values, found = _Values(variables or {}), Found()
    configured = list(_configured(stores))
    others = [each for each in configured if each != "aws"]
    if "aws" not in configured or others:
        where = ", ".join(sorted(str(each)[:40] for each in configured)) or "no store"
        reason = f"keeps its keys in {where}, and the only way to a KMS key that is known is AWS Secrets Manager alone"
        found.leave_out(source, Why.REFUSED, reason, "If a KMS key is behind that: `keyvigil key register`.")
        return found
    names = (
        [values.shown(each.get("name")) for each in keys if isinstance(each, dict)] if isinstance(keys, list) else []
    )
    try:
        _read_store(stores["aws"]["secretsmanager"], source, values, found, account_id, cluster_id, name, names)
    except _UnresolvedError as error:
        found.leave_out(
            source,
            Why.REFUSED,
            f"the store's settings name the variable {error.variable}, and its value was not given",
            f"Give it as KES gets it: --set {error.variable}=VALUE; or --environment, if it is set here too.",
        )
    return found


def _configured(stores: Mapping[str, Any]) -> Iterator[str]:
    for store, settings in stores.items():
        if not isinstance(settings, dict):
            continue
        if store == "aws":
            manager = settings.get("secretsmanager")
            if isinstance(manager, dict) and any(manager.get(each) for each in ("endpoint", "region", "kmskey")):
                yield store
            continue
        inner: Any = settings
        for step in _ESSENTIAL.get(store, ()):
            inner = inner.get(step) if isinstance(inner, dict) else None
        if inner:
            yield store


def _read_store(
    settings: Mapping[str, Any],
    source: str,
    values: _Values,
    found: Found,
    account_id: str,
    cluster_id: str | None,
    name: str | None,
    names: list[str],
) -> None:
    endpoint = _ENDPOINT.match(values.of(settings.get("endpoint")))
    region = values.of(settings.get("region")) or (endpoint[1] if endpoint else "")
    key = values.of(settings.get("kmskey"))
    if not region:
        found.leave_out(source, Why.REFUSED, "does not say in which Region its Secrets Manager is", "Set `region`.")
        return
    if not key:
        found.leave_out(
            source,
            Why.NOT_WATCHABLE,
            "names no kmskey, so its secrets hang on the account's AWS-managed key (alias/aws/secretsmanager), which "
            "nobody can disable or probe",
            "To have a key of yours: set `kmskey`, move each secret that is there with `aws secretsmanager "
            f"update-secret --region {region} --secret-id NAME --kms-key-id ARN`, and import again.",
        )
        return
    arn = key_arn_of(key, Place(region, account_id))
    if isinstance(arn, NotAKey):
        found.leave_out(source, arn.why, arn.reason, arn.to_do, key=key if "alias/" in key else "")
        return
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    found.dependents.append(
        Dependent(
            address=source,
            name=name or "MinIO behind KES",
            kind="minio-kes",
            use="kes",
            region=region,
            key_arn=arn,
            # Several KES servers with one key are one MinIO's.
            cluster_id=cluster_id or cluster_id_of("minio-kes", region, account_id=f"{account_of(arn)} {arn}"),
            detail=f"keys {shown}" if shown else "",
        )
    )
