"""Sends 100 log records with the OpenTelemetry SDK: opentelemetry_push.py http|grpc URL."""

import logging
import sys

from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

protocol, url = sys.argv[1:]
if protocol == "http":
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    exporter = OTLPLogExporter(endpoint=url + "/otlp/v1/logs")
else:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    exporter = OTLPLogExporter(endpoint=url, insecure=True)

resource = Resource.create({"service.name": "shop-" + protocol, "service.namespace": "demo", "team": "checkout"})
provider = LoggerProvider(resource=resource)
provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
logger = logging.getLogger("orders")
logger.setLevel(logging.INFO)
logger.addHandler(LoggingHandler(logger_provider=provider))
for i in range(100):
    logger.warning("order %d placed", i, extra={"order_id": str(i)})
if not provider.force_flush():
    sys.exit("the records were not taken")
provider.shutdown()
