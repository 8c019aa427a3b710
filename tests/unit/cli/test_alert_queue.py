import json

from keyvigil_cli.alert_queue import alert_in

ALERT = {"type": "key.suspect", "severity": "warning"}


def test_an_alert_is_taken_out_of_sns_s_notification() -> None:
    assert alert_in(json.dumps({"Type": "Notification", "Message": json.dumps(ALERT)})) == ALERT


def test_an_alert_delivered_raw_is_the_body() -> None:
    assert alert_in(json.dumps(ALERT)) == ALERT
