"""Whether each permission has somebody who misses it: a drill, or AWS itself."""

from collections import Counter
from collections.abc import Collection

from tests.infra.permissions import granted
from tests.infra.service_needs import needed_by_aws
from tests.infra.source_template import Template
from tests.permissions.drill import Drill

_WHAT_TO_DO = (
    "let a drill in tests/permissions/drills.py miss it; if only AWS can, write the need, with AWS's page, into "
    "tests/infra/service_needs.py; if nobody does, remove it from template.yaml and docs/permissions.md"
)


def coverage_problems(plain: Template, full: Template, drills: Collection[Drill]) -> list[str]:
    """Permissions that nobody is known to miss, one line each, and what is said of permissions that are not so.

    ``plain`` is the stack that was given nothing, ``full`` the one that was given everything optional.
    """
    missed = Counter(permission for drill in drills for permission in drill.misses)
    only_with_key = {permission for drill in drills if drill.with_key for permission in drill.misses}
    by_aws = needed_by_aws(full)
    given, always = list(dict.fromkeys(granted(full))), set(granted(plain))
    return [
        *(f"{each}: nobody misses it; {_WHAT_TO_DO}" for each in given if each not in missed and each not in by_aws),
        *(f"{each}: a drill misses it, and nobody grants it" for each in missed if each not in given),
        *(f"{each}: more than one drill says that it misses it" for each, times in missed.items() if times > 1),
        *(f"{each}: a drill misses it, so it is not only AWS that can" for each in missed if each in by_aws),
        *(
            f"{each}: is granted without a key too, and only missed with one; put it under the condition KeyIsGiven"
            for each in sorted(only_with_key & always)
        ),
    ]
