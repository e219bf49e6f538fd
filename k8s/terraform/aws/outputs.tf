output "bucket" {
  description = "config.store.s3.bucket of the Helm chart."
  value       = aws_s3_bucket.blocks.id
}

output "role_arn" {
  description = "serviceAccount.annotations of the Helm chart: eks.amazonaws.com/role-arn."
  value       = aws_iam_role.millrace.arn
}

output "kafka_brokers" {
  description = "config.kafka.brokers of the Helm chart, if MSK was made."
  value       = var.msk == null ? null : aws_msk_cluster.millrace[0].bootstrap_brokers_sasl_scram
}
