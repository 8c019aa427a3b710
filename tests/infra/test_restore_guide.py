"""docs/restore.md stops functions, and gives them back what the template gives them."""

import re

from tests.infra.source_template import ROOT, Template

GUIDE = (ROOT / "docs" / "restore.md").read_text()


def test_each_function_that_is_stopped_is_started_with_its_own_concurrency(plain_template: Template) -> None:
    listed = re.search(r"for name in ([a-z -]+); do", GUIDE)
    assert listed is not None
    given_back = dict(re.findall(r"--function-name keyvigil-([a-z-]+) --reserved-concurrent-executions (\d+)", GUIDE))
    assert set(given_back) == set(listed[1].split())
    functions = plain_template["Resources"].values()
    reserved = {
        name["Fn::Sub"].removeprefix("${AWS::StackName}-"): str(each["Properties"].get("ReservedConcurrentExecutions"))
        for each in functions
        if "Fn::Sub" in (name := each.get("Properties", {}).get("FunctionName", ()))
    }
    assert given_back == {name: reserved[name] for name in given_back}
