# The patterns and documents of ../../customer-events.yaml. tests/infra/test_onboarding.py renders both and holds them
# against each other.

locals {
  key_events = {
    source        = ["aws.kms"]
    "detail-type" = ["KMS CMK Deletion", "KMS CMK Rotation", "KMS Imported Key Material Expiration"]
  }

  key_changes = {
    source        = ["aws.kms"]
    "detail-type" = ["AWS API Call via CloudTrail"]
    detail = {
      eventSource = ["kms.amazonaws.com"]
      errorCode   = [{ exists = false }]
      eventName = [
        "DisableKey",
        "EnableKey",
        "ScheduleKeyDeletion",
        "CancelKeyDeletion",
        "PutKeyPolicy",
        "CreateGrant",
        "RevokeGrant",
        "RetireGrant",
        "DeleteImportedKeyMaterial",
        "ImportKeyMaterial",
        "UpdateAlias",
        "DeleteAlias",
        "EnableKeyRotation",
        "DisableKeyRotation",
        "RotateKeyOnDemand",
        "UpdatePrimaryRegion",
        "ReplicateKey",
        "DisconnectCustomKeyStore",
        "ConnectCustomKeyStore",
        "UpdateCustomKeyStore",
        "DeleteCustomKeyStore",
        "TagResource",
        "UntagResource",
      ]
    }
  }

  # IAM is global; CloudTrail records its events in us-east-1 only.
  role_changes = {
    source        = ["aws.iam"]
    "detail-type" = ["AWS API Call via CloudTrail"]
    detail = {
      eventSource = ["iam.amazonaws.com"]
      errorCode   = [{ exists = false }]
      eventName = [
        "UpdateAssumeRolePolicy",
        "CreateRole",
        "DeleteRole",
        "PutRolePolicy",
        "DeleteRolePolicy",
        "AttachRolePolicy",
        "DetachRolePolicy",
        "PutRolePermissionsBoundary",
        "DeleteRolePermissionsBoundary",
      ]
      requestParameters = { roleName = var.role_names }
    }
  }

  patterns_json = merge(
    { KeyEvents = jsonencode(local.key_events), KeyChanges = jsonencode(local.key_changes) },
    { for name in ["RoleChanges"] : name => jsonencode(local.role_changes) if var.region == "us-east-1" }
  )

  descriptions = {
    KeyEvents   = "KMS's own events, to KeyVigil"
    KeyChanges  = "What was done to KMS keys, their policies, grants, aliases and stores, to KeyVigil"
    RoleChanges = "What was done to the roles that KeyVigil assumes, to KeyVigil"
  }

  trust_policy_json = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }]
  })

  forward_policy_json = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "events:PutEvents", Resource = var.intake_bus_arn }]
  })

  queue_arn = "arn:aws:sqs:${var.region}:${var.account_id}:${var.name}-undelivered"

  queue_policy_json = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = local.queue_arn
      Condition = { ArnLike = { "aws:SourceArn" = "arn:aws:events:${var.region}:${var.account_id}:rule/${var.name}-*" } }
    }]
  })
}
