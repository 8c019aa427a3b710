# The parameters of ../../customer-events.yaml under Terraform's names. One instance of the module for each Region that has
# keys, and one for us-east-1, where IAM's events are.

variable "intake_bus_arn" {
  description = "KeyVigil's intake bus in the operator's account"
  type        = string

  validation {
    condition     = can(regex("^arn:aws:events:[a-z]{2}(-[a-z]+)+-\\d{1,2}:\\d{12}:event-bus/[\\w./-]{1,256}$", var.intake_bus_arn))
    error_message = "The ARN of an event bus, arn:aws:events:REGION:ACCOUNT_ID:event-bus/NAME."
  }
}

variable "role_names" {
  description = "The roles made by the module role; of IAM's events only those about these are forwarded"
  type        = list(string)
  default     = ["keyvigil-customer"]

  validation {
    condition     = length(var.role_names) > 0 && alltrue([for name in var.role_names : can(regex("^[\\w+=,.@-]{1,64}$", name))])
    error_message = "Each must be the name of an IAM role, without its path."
  }
}

variable "region" {
  description = "The Region that the provider of this instance works in"
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-\\d{1,2}$", var.region))
    error_message = "The name of a Region."
  }
}

variable "account_id" {
  description = "The account that the provider works in: yours"
  type        = string

  validation {
    condition     = can(regex("^\\d{12}$", var.account_id))
    error_message = "12 digits."
  }
}

variable "name" {
  description = "What the names of the rules, the role and the queue begin with"
  type        = string
  default     = "keyvigil-events"

  validation {
    condition     = can(regex("^[\\w-]{1,37}$", var.name))
    error_message = "1 to 37 letters, digits, hyphens and underscores."
  }
}
