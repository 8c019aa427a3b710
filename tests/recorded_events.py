"""The recorded events of `tests/events/`, made to be about a test's own key, role and account."""

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from keyvigil.adapters.plain_data import rfc3339

type Event = dict[str, Any]

FOLDER = Path(__file__).parent / "events"

ACCOUNT = "111122223333"
KMS_KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
MULTI_REGION_KEY = "mrk-1234abcd12ab34cd56ef1234567890ab"
KEY_ARN = f"arn:aws:kms:us-west-2:{ACCOUNT}:key/{KMS_KEY}"
ALIAS_ARN = f"arn:aws:kms:us-west-2:{ACCOUNT}:alias/my_alias"
ROLE = "keyvigil-customer"
KEY_STORE = "cks-1234567890abcdef0"

TAKEN = sorted(path.stem for path in FOLDER.glob("*.json"))
IGNORED = sorted(path.stem for path in FOLDER.glob("ignored/*.json"))


@cache
def _text(name: str) -> str:
    [path] = [*FOLDER.glob(f"{name}.json"), *FOLDER.glob(f"ignored/{name}.json")]
    return path.read_text(encoding="utf-8")


def recorded(name: str, **replaced: str) -> Event:
    """An event as it was recorded, with other words for what it names: `account`, `kms_key` and `role`."""
    text = _text(name)
    words = {"account": ACCOUNT, "kms_key": KMS_KEY, "role": ROLE}
    for word, value in replaced.items():
        text = text.replace(words[word], value)
    event: Event = json.loads(text)
    return event


def at(event: Event, moment: datetime) -> Event:
    """The same event at another time, in whole seconds as CloudTrail records it."""
    text = rfc3339(moment.replace(microsecond=0)).replace(".000", "")
    detail = {**event["detail"], "eventTime": text} if "eventTime" in event["detail"] else event["detail"]
    return {**event, "time": text, "detail": detail}
