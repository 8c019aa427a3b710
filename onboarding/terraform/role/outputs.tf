output "role_arn" {
  description = "What the operator needs beside the keys' ARNs"
  value       = aws_iam_role.keyvigil.arn
}

output "register_the_first_key" {
  description = "How the operator registers the first key; likewise the others"
  value = join(" ", [
    "keyvigil key register ${var.project_id} --key-arn ${var.key_arns[0]}",
    "--role-arn ${aws_iam_role.keyvigil.arn} --use ${var.use}${var.use == "kes" ? " --probe-secret-arn ${var.probe_secret_arn}" : ""}",
  ])
}
