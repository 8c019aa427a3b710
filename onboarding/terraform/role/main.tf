resource "aws_iam_role" "keyvigil" {
  name                 = var.role_name
  description          = "KeyVigil probes the keys of project ${var.project_id} with it"
  max_session_duration = 3600
  assume_role_policy   = local.trust_policy_json

  lifecycle {
    precondition {
      condition     = var.use != "kes" || var.probe_secret_arn != ""
      error_message = "Use kes needs probe_secret_arn, the secret that is read by each probe."
    }
  }
}

resource "aws_iam_role_policy" "probes" {
  name   = "keyvigil-probes"
  role   = aws_iam_role.keyvigil.id
  policy = local.probes_policy_json
}
