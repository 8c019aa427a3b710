output "role_arn" {
  description = "What the operator needs beside the keys' ARNs"
  value       = aws_iam_role.keyvigil.arn
}

output "register_the_first_key" {
  description = "How the operator registers the first key; likewise the others"
  value = join(" ", [
    "keyvigil api POST /projects/${var.project_id}/keys",
    "'{\"key_arn\": \"${var.key_arns[0]}\", \"role_arn\": \"${aws_iam_role.keyvigil.arn}\", \"use\": \"${var.use}\"${var.use == "kes" ? ", \"probe_secret_arn\": \"${var.probe_secret_arn}\"" : ""}}'",
  ])
}
