# The parameters of ../../customer-role.yaml under Terraform's names: same meaning, same patterns, same defaults.

variable "keyvigil_account_id" {
  description = "The AWS account that the operator runs KeyVigil in"
  type        = string

  validation {
    condition     = can(regex("^\\d{12}$", var.keyvigil_account_id))
    error_message = "12 digits."
  }
}

variable "monitor_role_name" {
  description = "The name of KeyVigil's monitor role in that account"
  type        = string
  default     = "keyvigil-monitor"

  validation {
    condition     = can(regex("^[\\w+=,.@-]{1,64}$", var.monitor_role_name))
    error_message = "The name of an IAM role, without its path."
  }
}

variable "project_id" {
  description = "Your project in KeyVigil"
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,39}$", var.project_id))
    error_message = "3 to 40 small letters, digits and hyphens, a letter first."
  }
}

variable "external_id" {
  description = "The project's ExternalId, which KeyVigil made; it is yours alone"
  type        = string

  validation {
    # Terraform's expressions count no further than 1000.
    condition     = can(regex("^[\\w+=,.@:/-]+$", var.external_id)) && length(var.external_id) >= 2 && length(var.external_id) <= 1224
    error_message = "2 to 1224 of the characters that STS takes in an ExternalId."
  }
}

variable "key_arns" {
  description = "The ARNs of the keys; of a multi-Region key one for each Region"
  type        = list(string)

  validation {
    condition = length(var.key_arns) > 0 && alltrue([
      for arn in var.key_arns :
      can(regex("^arn:aws:kms:[a-z]{2}(-[a-z]+)+-\\d{1,2}:\\d{12}:key/(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$", arn))
    ])
    error_message = "Each must be a key's ARN, arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID, and no alias."
  }
}

variable "use" {
  description = "What the keys are used for, as in their registration; cse needs GenerateDataKey too, kes one secret"
  type        = string
  default     = "cmek"

  validation {
    condition     = contains(["cmek", "cse", "kes", "service"], var.use)
    error_message = "One of cmek, cse, kes and service."
  }
}

variable "probe_secret_arn" {
  description = "For use kes, the ARN of the secret made for the probe, with nothing secret in it"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws:secretsmanager:[a-z]{2}(-[a-z]+)+-\\d{1,2}:\\d{12}:secret:keyvigil/[a-zA-Z0-9/_+=.@-]{1,503}-[a-zA-Z0-9]{6})?$", var.probe_secret_arn))
    error_message = "Empty, or the whole ARN of a secret whose name begins with keyvigil/."
  }
}

variable "allow_rotation_status" {
  description = "Whether KeyVigil may see if the keys are rotated, to tell you when they no longer are"
  type        = bool
  default     = true
}

variable "allow_lookup_events" {
  description = "Whether KeyVigil may search this account's CloudTrail event history for who broke a key; all management events, because IAM cannot limit it"
  type        = bool
  default     = false
}

variable "role_name" {
  description = "The role's name, one for each project; in the operator's own account it must begin with keyvigil-customer-"
  type        = string
  default     = "keyvigil-customer"

  validation {
    condition     = can(regex("^[\\w+=,.@-]{1,64}$", var.role_name))
    error_message = "The name of an IAM role."
  }
}

variable "restrict_to_probes" {
  description = "Whether the role may encrypt and decrypt KeyVigil's own probes only; false where no encryption context can be compared"
  type        = bool
  default     = true
}
