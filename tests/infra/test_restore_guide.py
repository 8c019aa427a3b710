"""docs/restore.md stops functions, and gives them back what the template gives them."""

import re

from tests.infra.source_template import ROOT

GUIDE = (ROOT / "docs" / "restore.md").read_text()
RESERVED = re.compile(
    r"FunctionName: !Sub \$\{AWS::StackName\}-([a-z-]+)\n(?:(?!FunctionName).*\n)*?"
    r"      ReservedConcurrentExecutions: !If \[ConcurrencyIsReserved, (\d+), "
)


def test_each_function_that_is_stopped_is_started_with_its_own_concurrency() -> None:
    listed = re.search(r"for name in ([a-z -]+); do", GUIDE)
    assert listed is not None
    given_back = dict(re.findall(r"--function-name keyvigil-([a-z-]+) --reserved-concurrent-executions (\d+)", GUIDE))
    assert set(given_back) == set(listed[1].split())
    reserved = dict(RESERVED.findall((ROOT / "template.yaml").read_text()))
    assert given_back == {name: reserved[name] for name in given_back}
