"""What KeyVigil's watching of itself costs a month, counted in the rendered template: a part of README's ``## Cost``.

``python -m tests.infra.watching_cost`` (``make cost``) writes it there; a test says when it is not current.
"""

import os
import sys
from decimal import Decimal

from tests.infra.dashboard_rules import dashboard_metrics
from tests.infra.source_template import EVERYTHING, ROOT, SourceTemplate, Template

README = ROOT / "README.md"
BEGIN, END = "<!-- make cost -->", "<!-- /make cost -->"

# AWS's list prices in US dollars a month, in us-east-1 and for the first 10,000 metrics; standard resolution.
# https://aws.amazon.com/cloudwatch/pricing/
ALARM, METRIC, DASHBOARD = Decimal("0.10"), Decimal("0.30"), Decimal("3.00")


def watching_cost(template: Template) -> str:
    """The table, from the template with everything optional.

    Every metric that is published is on the dashboard (tests/unit/test_metrics.py), and none has a dimension whose
    values grow with keys or projects, so what the dashboard shows is what is charged.
    """
    resources = template["Resources"].values()
    alarms = sum(each["Type"] == "AWS::CloudWatch::Alarm" for each in resources)
    dashboards = [each["Properties"] for each in resources if each["Type"] == "AWS::CloudWatch::Dashboard"]
    shown = {metric for each in dashboards for metric in dashboard_metrics(each["DashboardBody"])}
    own = {metric for metric in shown if metric.namespace.startswith("KeyVigil/")}
    lines = [
        ("alarms", alarms, ALARM),
        ("metrics of its own", len(own), METRIC),
        ("dashboard", len(dashboards), DASHBOARD),
    ]
    total = sum((count * price for _, count, price in lines), Decimal(0))
    return "\n".join(
        [
            "| what | how many | each | a month |",
            "|---|---:|---:|---:|",
            *(f"| {what} | {count} | ${price} | ${count * price} |" for what, count, price in lines),
            f"| together | | | ${total} |",
        ]
    )


def written(readme: str) -> str:
    """The table as it stands in README.

    Raises:
        ValueError: it is not there.
    """
    _, begin, rest = readme.partition(f"{BEGIN}\n")
    table, end, _ = rest.partition(f"\n{END}")
    if not (begin and end):
        message = f"README has no table between {BEGIN} and {END}"
        raise ValueError(message)
    return table


def main() -> None:
    """Write the current table into README, and show it."""
    os.environ["AWS_DEFAULT_REGION"] = "us-west-2"  # the translator asks for the Region it runs in
    source = SourceTemplate.load()
    table = watching_cost(source.resolve(source.render(), **EVERYTHING))
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(written(text), table), encoding="utf-8")
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    main()
