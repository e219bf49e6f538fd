"""Sends 50 lines with python-logging-loki: python_logging_loki.py URL."""

import logging
import sys

import logging_loki

handler = logging_loki.LokiHandler(url=sys.argv[1] + "/loki/api/v1/push", tags={"application": "py"}, version="1")
failures = []
handler.handleError = lambda record: failures.append(sys.exc_info()[1])
logger = logging.getLogger("shop")
logger.addHandler(handler)
for i in range(50):
    logger.warning('warning %d é "quoted"', i)
if failures:
    sys.exit(f"{len(failures)} lines were refused: {failures[0]}")
