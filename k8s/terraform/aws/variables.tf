variable "bucket" {
  description = "Name of the bucket for blocks."
  type        = string
}

variable "prefix" {
  description = "Prefix of all keys (store.s3.prefix). Empty: the whole bucket."
  type        = string
  default     = ""
}

variable "kms_key_arn" {
  description = "Key for encryption with KMS. Empty: S3's own keys (AES256)."
  type        = string
  default     = ""
}

variable "tiering_days" {
  description = "Age at which blocks move to INTELLIGENT_TIERING; 0 never."
  type        = number
  default     = 30

  validation {
    condition     = var.tiering_days >= 0
    error_message = "tiering_days must be 0 or more."
  }
}

variable "oidc_provider_arn" {
  description = "ARN of the cluster's OIDC provider."
  type        = string
}

variable "oidc_issuer_url" {
  description = "URL of the cluster's OIDC issuer."
  type        = string
}

variable "namespace" {
  description = "Namespace of the Helm release."
  type        = string
  default     = "millrace"
}

variable "service_account" {
  description = "Service account of the Helm release (serviceAccount.name)."
  type        = string
  default     = "millrace"
}

variable "role_name" {
  description = "Name of the IAM role."
  type        = string
  default     = "millrace"
}

variable "msk" {
  description = "Makes an MSK cluster with these settings; null for none."
  type = object({
    subnets         = list(string)
    security_groups = list(string)
    instance_type   = optional(string, "kafka.m7g.large")
    brokers         = optional(number, 3)
    volume_gb       = optional(number, 1000)
  })
  default = null
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
}
