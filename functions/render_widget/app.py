"""The dashboard's widget: shows the fleet and its open incidents, and has a key probed when somebody asks.

CloudWatch does not say who is looking, so nothing here decides anything that needs a name.
"""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.api import views
from keyvigil.errors import DeliveryError, NotFoundError
from keyvigil.page.html import readable
from keyvigil.page.overview import Overview, overview
from keyvigil.page.render import CHECK_NOW, WIDGET_BOUNDS, widget
from keyvigil.use_cases.read_overview import FleetOverview

logger = Logger(service="render_widget")

DESCRIPTION = """## The fleet of KeyVigil

Shows how all keys and clusters stand, the open incidents with their timelines and what mends them, and the keys that
are not simply fine. It takes no parameters.

**Check now** puts one key on the check queue; its result is there after a few seconds, at the next refresh. Nothing
else can be done here, because a widget is not told who is looking: decisions about incidents are made with
`keyvigil incident`, which keeps the name of who made them.
"""


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> str | dict[str, str]:
    """Draw the widget, after what a press of its button asks for."""
    if event.get("describe"):
        return {"markdown": DESCRIPTION}
    notice = _check_now(event) if event.get("action") == CHECK_NOW else None
    theme = (event.get("widgetContext") or {}).get("theme")
    shown = wiring.read_overview()(
        keys=WIDGET_BOUNDS.troubled_keys, incidents=WIDGET_BOUNDS.incidents, entries=WIDGET_BOUNDS.entries
    )
    return widget(_overview(shown), endpoint=context.invoked_function_arn, dark=theme == "dark", notice=notice)


def _check_now(event: Mapping[str, Any]) -> str:
    """Ask for a probe; what came of it, in words."""
    project_id, key_id = str(event.get("project_id", "")), str(event.get("key_id", ""))
    named = {"project_id": readable(project_id), "key_id": readable(key_id)}
    if not project_id or not key_id:
        return "No key was named, so none is probed."
    try:
        wiring.ask_check()(project_id, key_id)
    except NotFoundError:
        logger.info("asked for a key that is gone", extra=named)
        return f"{key_id} is not registered in {project_id} any more."
    except DeliveryError as error:
        logger.exception("could not ask for a probe", extra={**named, "reason": str(error)})
        return f"{key_id} could not be put on the check queue. Try again, or: keyvigil key check {project_id} {key_id}"
    logger.info("asked for a probe", extra=named)
    return f"{key_id} is being probed. Refresh in a few seconds to see the result."


def _overview(read: FleetOverview) -> Overview:
    settings = wiring.settings()
    return overview(
        views.fleet(read.fleet),
        [
            (key.project_id, views.key(key, interval_minutes=project.check_interval_minutes, now=read.taken_at))
            for project, key in read.keys
        ],
        [views.incident(incident, timeline, str) for incident, timeline in read.incidents],
        stack=settings.text("STACK_NAME"),
        region=settings.region,
        taken_at=read.taken_at,
        left_out=read.left_out,
    )
