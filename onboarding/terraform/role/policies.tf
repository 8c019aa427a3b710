# The documents of ../../customer-role.yaml, statement by statement. tests/infra/test_onboarding.py renders both and
# holds them against each other.

locals {
  trust_policy = {
    Version = "2012-10-17"
    Statement = [
      {
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::${var.keyvigil_account_id}:root" }
        Action    = "sts:AssumeRole"
        Condition = {
          ArnLike = {
            "aws:PrincipalArn" = [
              "arn:aws:iam::${var.keyvigil_account_id}:role/${var.monitor_role_name}",
              "arn:aws:sts::${var.keyvigil_account_id}:assumed-role/${var.monitor_role_name}/*",
            ]
          }
          StringEquals = { "sts:ExternalId" = var.external_id }
        }
      }
    ]
  }

  # Each statement stands in a list of its own, empty if it is not wanted: lists of one form are what Terraform can choose from.
  see_the_keys = {
    Sid      = "SeeTheKeys"
    Effect   = "Allow"
    Action   = "kms:DescribeKey"
    Resource = var.key_arns
  }

  probe_the_keys = merge(
    {
      Sid      = "ProbeTheKeys"
      Effect   = "Allow"
      Action   = concat(["kms:Encrypt", "kms:Decrypt"], var.use == "cse" ? ["kms:GenerateDataKey"] : [])
      Resource = var.key_arns
    },
    {
      for name, value in {
        Condition = {
          StringEquals = {
            "kms:EncryptionContext:tested-by" = "KeyVigil"
            "kms:EncryptionContext:project"   = var.project_id
          }
        }
      } : name => value if var.restrict_to_probes
    }
  )

  optional = {
    see_rotation = {
      wanted = var.allow_rotation_status
      statement = jsonencode({
        Sid      = "SeeRotation"
        Effect   = "Allow"
        Action   = "kms:GetKeyRotationStatus"
        Resource = var.key_arns
      })
    }
    read_the_probes_secret = {
      wanted = var.use == "kes"
      statement = jsonencode({
        Sid      = "ReadTheProbesSecret"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.probe_secret_arn
      })
    }
    decrypt_the_probes_secret = {
      wanted = var.use == "kes"
      statement = jsonencode({
        Sid      = "DecryptTheProbesSecret"
        Effect   = "Allow"
        Action   = "kms:Decrypt"
        Resource = var.key_arns
        Condition = {
          StringEquals = {
            # A default is split too, where it is not wanted.
            "kms:ViaService"                  = "secretsmanager.${split(":", "${var.probe_secret_arn}::::")[3]}.amazonaws.com"
            "kms:EncryptionContext:SecretARN" = var.probe_secret_arn
          }
        }
      })
    }
    see_who_did_it = {
      wanted = var.allow_lookup_events
      statement = jsonencode({
        Sid      = "SeeWhoDidIt"
        Effect   = "Allow"
        Action   = "cloudtrail:LookupEvents"
        Resource = "*"
      })
    }
  }

  # Statements have different forms, and so travel as JSON until they are put together.
  statements = concat(
    [jsonencode(local.see_the_keys), jsonencode(local.probe_the_keys)],
    [
      for name in ["see_rotation", "read_the_probes_secret", "decrypt_the_probes_secret", "see_who_did_it"] :
      local.optional[name].statement if local.optional[name].wanted
    ]
  )

  trust_policy_json  = jsonencode(local.trust_policy)
  probes_policy_json = jsonencode({ Version = "2012-10-17", Statement = [for each in local.statements : jsondecode(each)] })
}
