"""Grafana dashboards as code. Each panel is a title, a unit and its queries; k8s/generate.py writes the JSON."""

NAMESPACE = 'namespace=~"$namespace"'


def rate(metric, by="", more="", window="$__rate_interval"):
    selector = ", ".join(filter(None, [NAMESPACE, more]))
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate({metric}{{{selector}}}[{window}]))"


def gauge(metric, function="sum", by="", more=""):
    selector = ", ".join(filter(None, [NAMESPACE, more]))
    group = f" by ({by})" if by else ""
    return f"{function}{group} ({metric}{{{selector}}})"


def quantile(share, metric, by="", more=""):
    labels = ", ".join(filter(None, [by, "le"]))
    return f"histogram_quantile({share}, {rate(metric + '_bucket', labels, more)})"


def latencies(metric, by="", more=""):
    legend = "{{" + by + "}} " if by else ""
    return [(quantile(share, metric, by, more), f"{legend}p{int(share * 100)}") for share in (0.5, 0.99)]


PUSH = 'route=~"loki_api_v1_push|api_prom_push|otlp_v1_logs"'
QUERY = 'route!~"loki_api_v1_push|api_prom_push|otlp_v1_logs|metrics|ready"'

# Dashboard → rows → panels: (title, unit, [(query, legend)]).
BOARDS = {
    "overview": ("Millrace / Overview", {
        "Health": [
            ("Partitions without a leader", "none", [(f"{gauge('millrace_gateway_partitions', 'max')} - {gauge('millrace_consumer_leading')}", "partitions")]),
            ("Farthest behind", "s", [(gauge("millrace_consumer_lag_seconds", "max"), "lag")]),
            ("Lost offsets", "none", [(gauge("millrace_lost_offsets_total"), "lost")]),
            ("Log and store unavailable", "none", [(gauge("millrace_gateway_log_breaker_open", "max"), "Kafka"), (gauge("millrace_object_store_breaker_state", "max"), "S3")]),
        ],
        "Traffic": [
            ("Bytes in", "Bps", [(rate("loki_distributor_bytes_received_total", "tenant"), "{{tenant}}")]),
            ("Lines in", "cps", [(rate("loki_distributor_lines_received_total", "tenant"), "{{tenant}}")]),
            ("Requests by status", "reqps", [(rate("loki_request_duration_seconds_count", "status_code"), "{{status_code}}")]),
            ("Discarded entries", "cps", [(rate("loki_discarded_samples_total", "tenant, reason"), "{{tenant}} {{reason}}")]),
        ],
        "Resources": [
            ("CPU", "short", [(rate("process_cpu_seconds_total", "component"), "{{component}}")]),
            ("CPU by stage", "short", [(rate("millrace_stage_cpu_seconds_total", "stage"), "{{stage}}")]),
            ("Memory", "bytes", [(gauge("process_resident_memory_bytes", "max", "component"), "{{component}} (largest pod)")]),
            ("Work on processors", "none", [(gauge("millrace_processors_running", "sum", "kind"), "{{kind}}")]),
        ],
    }),
    "writes": ("Millrace / Writes", {
        "Pushes": [
            ("Pushes by status", "reqps", [(rate("loki_request_duration_seconds_count", "status_code", PUSH), "{{status_code}}")]),
            ("Push latency", "s", latencies("loki_request_duration_seconds", more=PUSH)),
            ("Kafka append latency", "s", latencies("loki_distributor_kafka_latency_seconds")),
            ("Answered 503", "reqps", [(rate("millrace_gateway_unavailable_total"), "503")]),
        ],
        "Load": [
            ("Bytes in flight", "bytes", [(gauge("millrace_gateway_inflight_bytes", "max", "pod"), "{{pod}}")]),
            ("Active streams", "none", [(gauge("millrace_gateway_active_streams", "sum", "tenant"), "{{tenant}}")]),
            ("Discarded by reason", "cps", [(rate("loki_discarded_samples_total", "reason"), "{{reason}}")]),
            ("Partitions of a tenant", "none", [(gauge("millrace_gateway_tenant_partitions", "max", "tenant"), "{{tenant}}")]),
        ],
    }),
    "consumers": ("Millrace / Consumers and partitions", {
        "Partitions": [
            ("Leads by consumer", "none", [(gauge("millrace_consumer_leading", "sum", "pod"), "{{pod}}")]),
            ("Seconds behind", "s", [(gauge("millrace_consumer_lag_seconds", "max", "pod"), "{{pod}}")]),
            ("Records consumed", "cps", [(rate("millrace_consumer_records_total", "pod"), "{{pod}}")]),
            ("Fenced, not held", "cps", [(rate("millrace_consumer_fenced_total"), "fenced"), (rate("millrace_consumer_not_held_total"), "not held")]),
        ],
        "Memory": [
            ("Memory fill", "percentunit", [(gauge("millrace_consumer_memory_fill_ratio", "max", "pod"), "{{pod}}")]),
            ("Memory full", "cps", [(rate("millrace_consumer_memory_full_total", "pod"), "{{pod}}")]),
            ("Cut to head", "s", latencies("millrace_consumer_cut_seconds")),
            ("Retries", "cps", [(rate("millrace_consumer_retries_total", "what"), "{{what}}")]),
        ],
    }),
    "blocks": ("Millrace / Builders and blocks", {
        "Blocks": [
            ("Blocks by reason of the cut", "cps", [(rate("loki_ingester_chunks_flushed_total", "reason"), "{{reason}}")]),
            ("Bytes of lines and of blocks", "Bps", [(rate("millrace_builder_line_bytes_total"), "lines"), (rate("millrace_builder_block_bytes_total"), "blocks")]),
            ("Block size", "bytes", latencies("loki_ingester_chunk_size_bytes")),
            ("Cuts that wait", "none", [(gauge("loki_ingester_flush_queue_length"), "waiting")]),
        ],
        "Builders": [
            ("Remote builds", "cps", [(rate("millrace_builder_remote_builds_total", "outcome"), "{{outcome}}")]),
            ("Encode", "s", latencies("millrace_builder_encode_seconds")),
            ("Upload", "s", latencies("millrace_builder_put_seconds")),
            ("Orphans, quarantine", "cps", [(rate("millrace_builder_orphaned_blocks_total"), "orphaned blocks"), (rate("millrace_builder_quarantined_records_total"), "quarantined records")]),
        ],
    }),
    "queries": ("Millrace / Queries", {
        "Requests": [
            ("Queries by route", "reqps", [(rate("loki_request_duration_seconds_count", "route", QUERY), "{{route}}")]),
            ("Query latency", "s", latencies("loki_request_duration_seconds", more=QUERY)),
            ("Waiting for a turn", "s", latencies("loki_query_scheduler_queue_duration_seconds")),
            ("Bytes processed", "Bps", [(rate("loki_logql_querystats_bytes_processed_total"), "bytes")]),
        ],
        "Exact reads": [
            ("Reads by consistency", "reqps", [(rate("millrace_query_reads_total", "consistency"), "{{consistency}}")]),
            ("Strong reads wait", "s", latencies("millrace_query_strong_wait_seconds")),
            ("Plans made again", "cps", [(rate("millrace_query_plans_again_total", "why"), "{{why}}")]),
            ("Reads of the log, stale heads", "cps", [(rate("millrace_fleet_fallbacks_total"), "log read"), (rate("millrace_query_heads_stale_total"), "stale heads")]),
        ],
        "Tails": [
            ("Open tails", "none", [(gauge("loki_querier_tail_active"), "tails")]),
            ("Dropped entries", "cps", [(rate("millrace_query_tail_dropped_entries_total"), "dropped")]),
        ],
    }),
    "tenants": ("Millrace / Tenants", {
        "By tenant": [
            ("Bytes in", "Bps", [(rate("loki_distributor_bytes_received_total", "tenant"), "{{tenant}}")]),
            ("Bytes of a day at this rate", "bytes", [("86400 * " + rate("loki_distributor_bytes_received_total", "tenant", window="1h"), "{{tenant}}")]),
            ("Active streams", "none", [(gauge("millrace_gateway_active_streams", "sum", "tenant"), "{{tenant}}")]),
            ("Discarded", "cps", [(rate("loki_discarded_samples_total", "tenant, reason"), "{{tenant}} {{reason}}")]),
        ],
    }),
    "kafka": ("Millrace / Kafka", {
        "Producer": [
            ("Records appended", "cps", [(rate("loki_distributor_kafka_appends_total"), "records")]),
            ("Bytes appended", "Bps", [(rate("loki_distributor_kafka_sent_bytes_total"), "bytes")]),
            ("Append latency", "s", latencies("loki_distributor_kafka_latency_seconds")),
            ("Breaker, failing partitions", "none", [(gauge("millrace_gateway_log_breaker_open", "max"), "breaker open"), (gauge("millrace_gateway_partitions_failing", "max"), "failing partitions")]),
        ],
        "Clients": [
            ("Records fetched", "cps", [(rate("millrace_kafka_fetched_records_total"), "records")]),
            ("Renumberings, replaced members", "none", [(gauge("millrace_kafka_producer_epochs_total"), "renumberings"), (gauge("millrace_kafka_members_replaced_total"), "replaced members")]),
            ("Partitions", "none", [(gauge("millrace_kafka_partitions", "max"), "partitions")]),
            ("Control topic", "cps", [(rate("millrace_control_published_total"), "published"), (rate("millrace_control_errors_total"), "errors")]),
        ],
    }),
    "object-store": ("Millrace / Object store", {
        "Requests": [
            ("Requests", "reqps", [(rate("millrace_object_store_requests_total", "operation, outcome"), "{{operation}} {{outcome}}")]),
            ("Latency", "s", latencies("millrace_object_store_request_seconds", "operation")),
            ("Retries", "cps", [(rate("millrace_object_store_retries_total"), "retries")]),
            ("Breaker", "none", [(gauge("millrace_object_store_breaker_state", "max", "pod"), "{{pod}}")]),
        ],
        "Bytes": [
            ("Sent and received", "Bps", [(rate("millrace_object_store_sent_bytes_total"), "sent"), (rate("millrace_object_store_received_bytes_total"), "received")]),
            ("In flight and waiting", "none", [(gauge("millrace_object_store_requests_in_flight"), "in flight"), (gauge("millrace_object_store_requests_waiting"), "waiting")]),
        ],
    }),
}  # fmt: skip

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(number, x, y, title, unit, queries):
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": 6, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(65 + i), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(queries)
        ],
    }


def board(uid, title, rows):
    panels, y, number = [], 0, 1
    for row, content in rows.items():
        panels.append({"id": number, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        number, y = number + 1, y + 1
        for i, (name, unit, queries) in enumerate(content):
            panels.append(panel(number, 6 * (i % 4), y + 8 * (i // 4), name, unit, queries))
            number += 1
        y += 8 * ((len(content) + 3) // 4)
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "namespace", "type": "query", "label": "Namespace", "datasource": DATASOURCE, "refresh": 2,
            "query": {"query": "label_values(loki_build_info, namespace)", "refId": "namespace"},
            "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
        },
    ]  # fmt: skip
    return {
        "uid": f"millrace-{uid}", "title": title, "tags": ["millrace"], "schemaVersion": 39, "editable": False,
        "time": {"from": "now-3h", "to": "now"}, "refresh": "30s", "templating": {"list": variables}, "panels": panels,
        "links": [{"type": "dashboards", "title": "Millrace", "tags": ["millrace"], "asDropdown": True, "includeVars": True, "keepTime": True}],
    }  # fmt: skip


def dashboards():
    return {name: board(name, title, rows) for name, (title, rows) in BOARDS.items()}
