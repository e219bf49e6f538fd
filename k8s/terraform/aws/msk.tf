# Kafka as a service, with IAM switched off and SCRAM over TLS on: librdkafka speaks it without plug-ins.

resource "aws_msk_configuration" "millrace" {
  count          = var.msk == null ? 0 : 1
  name           = "millrace"
  kafka_versions = ["3.8.x"]
  # Millrace makes and checks its topics itself; these are defaults for everything else.
  server_properties = <<-EOT
    auto.create.topics.enable=false
    default.replication.factor=3
    min.insync.replicas=2
    unclean.leader.election.enable=false
  EOT
}

resource "aws_msk_cluster" "millrace" {
  count                  = var.msk == null ? 0 : 1
  cluster_name           = "millrace"
  kafka_version          = "3.8.x"
  number_of_broker_nodes = var.msk.brokers
  tags                   = var.tags

  broker_node_group_info {
    instance_type   = var.msk.instance_type
    client_subnets  = var.msk.subnets
    security_groups = var.msk.security_groups
    storage_info {
      ebs_storage_info {
        volume_size = var.msk.volume_gb
      }
    }
  }

  configuration_info {
    arn      = aws_msk_configuration.millrace[0].arn
    revision = aws_msk_configuration.millrace[0].latest_revision
  }

  client_authentication {
    sasl {
      scram = true
    }
  }

  encryption_info {
    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }
}
