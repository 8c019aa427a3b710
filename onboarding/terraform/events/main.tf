resource "aws_cloudwatch_event_rule" "forward" {
  for_each = local.patterns_json

  name          = "${var.name}-${each.key}"
  description   = local.descriptions[each.key]
  event_pattern = each.value
}

resource "aws_cloudwatch_event_target" "keyvigil" {
  for_each = local.patterns_json

  rule      = aws_cloudwatch_event_rule.forward[each.key].name
  target_id = "keyvigil"
  arn       = var.intake_bus_arn
  role_arn  = aws_iam_role.forward.arn

  dead_letter_config {
    arn = aws_sqs_queue.undelivered.arn
  }

  # An event is a hint to look now; an hour later the key was probed anyway.
  retry_policy {
    maximum_event_age_in_seconds = 3600
    maximum_retry_attempts       = 10
  }
}

resource "aws_iam_role" "forward" {
  name_prefix        = "${var.name}-"
  description        = "EventBridge forwards KMS events to KeyVigil with it"
  assume_role_policy = local.trust_policy_json
}

resource "aws_iam_role_policy" "forward" {
  name   = "forward"
  role   = aws_iam_role.forward.id
  policy = local.forward_policy_json
}

resource "aws_sqs_queue" "undelivered" {
  name                      = "${var.name}-undelivered"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "undelivered" {
  queue_url = aws_sqs_queue.undelivered.url
  policy    = local.queue_policy_json
}
