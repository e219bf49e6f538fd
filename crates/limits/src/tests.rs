//! Names, defaults, spellings, overrides and their reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use model::TenantId;
use serde_yaml_ng::Value;
use tokio_util::sync::CancellationToken;

use super::*;

#[test]
fn sizes() {
    let check = |text: &str, expected: Option<(u64, &str)>| {
        let found = text.parse::<ByteSize>().ok().map(|s| (s.bytes(), s.to_string()));
        assert_eq!(found.as_ref().map(|(n, t)| (*n, t.as_str())), expected, "{text:?}");
    };
    check("256KB", Some((256 << 10, "256KB")));
    check("3MB", Some((3 << 20, "3MB")));
    check("3 mb", Some((3 << 20, "3MB")));
    check("1.5MiB", Some((1536 << 10, "1536KB")));
    check("2G", Some((2 << 30, "2GB")));
    check("150GB", Some((150 << 30, "150GB")));
    check("1TB", Some((1 << 40, "1TB")));
    check("0", Some((0, "0B")));
    check("0B", Some((0, "0B")));
    check("1000", Some((1000, "1000B")));
    check("", None);
    check("KB", None);
    check("3XB", None);
    check("-1", None);
    check("99999999999999999999", None);
    check("99999999TB", None);
    check("1.2.3", None);
}

#[test]
fn durations() {
    let check = |text: &str, expected: Option<(u64, &str)>| {
        let found = text.parse::<PromDuration>().ok().map(|d| (d.get().as_millis() as u64, d.to_string()));
        assert_eq!(found.as_ref().map(|(n, t)| (*n, t.as_str())), expected, "{text:?}");
    };
    check("0", Some((0, "0s")));
    check("0s", Some((0, "0s")));
    check("250ms", Some((250, "250ms")));
    check("90s", Some((90_000, "1m30s")));
    check("7d", Some((604_800_000, "1w")));
    check("30d1h", Some((721 * 3_600_000, "721h")));
    check("721h", Some((721 * 3_600_000, "721h")));
    check("744h", Some((744 * 3_600_000, "31d")));
    check("1h30m0s", Some((5_400_000, "1h30m")));
    check("1.5h", Some((5_400_000, "1h30m")));
    check("1y", Some((365 * 86_400_000, "1y")));
    check("", None);
    check("5", None);
    check("5x", None);
    check("m", None);
    check("-5m", None);
    check("999999999y", None);
}

#[test]
fn times() {
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(text.parse::<Until>().ok().map(|t| t.to_string()).as_deref(), expected, "{text}");
    };
    check("2026-01-02T15:04:05Z", Some("2026-01-02T15:04:05Z"));
    check("2026-01-02T15:04:05+02:00", Some("2026-01-02T13:04:05Z"));
    check("2026-01-02", Some("2026-01-02T00:00:00Z"));
    check("tomorrow", None);
}

#[test]
fn nearest_keys() {
    let check =
        |unknown: &str, expected: Option<&str>| assert_eq!(nearest(unknown, Limits::KEYS), expected, "{unknown}");
    check("ingestion_rate", Some("ingestion_rate_mb"));
    check("ingestion_rate_mbs", Some("ingestion_rate_mb"));
    check("retension_period", Some("retention_period"));
    check("max_linesize", Some("max_line_size"));
    check("query_series", Some("max_query_series"));
    check("completely_different_thing", None);
    assert_eq!(nearest("x", &[]), None);
}

/// Names, defaults and spelling of the specification's tables.
#[test]
fn defaults_are_those_of_loki() {
    let found = serde_yaml_ng::to_value(Limits::default()).unwrap();
    let check = |key: &str, expected: &str| {
        let expected: Value = serde_yaml_ng::from_str(expected).unwrap();
        assert_eq!(found.get(key), Some(&expected), "{key}");
    };
    for (key, expected) in [
        ("ingestion_rate_strategy", "global"),
        ("ingestion_rate_mb", "4.0"),
        ("ingestion_burst_size_mb", "6.0"),
        ("max_line_size", "256KB"),
        ("max_line_size_truncate", "false"),
        ("max_label_names_per_series", "15"),
        ("max_label_name_length", "1024"),
        ("max_label_value_length", "2048"),
        ("reject_old_samples", "true"),
        ("reject_old_samples_max_age", "1w"),
        ("creation_grace_period", "10m"),
        ("max_streams_per_user", "0"),
        ("max_global_streams_per_user", "5000"),
        ("per_stream_rate_limit", "3MB"),
        ("per_stream_rate_limit_burst", "15MB"),
        ("allow_structured_metadata", "true"),
        ("max_structured_metadata_size", "64KB"),
        ("max_structured_metadata_entries_count", "128"),
        ("block_ingestion_status_code", "260"),
        ("discover_log_levels", "true"),
        ("log_level_from_json_max_depth", "2"),
        ("increment_duplicate_timestamp", "false"),
        (
            "shard_streams",
            "{enabled: true, time_sharding_enabled: false, time_sharding_ignore_recent: 40m, desired_rate: 1536KB}",
        ),
        ("max_entries_limit_per_query", "5000"),
        ("max_query_series", "500"),
        ("max_query_length", "721h"),
        ("query_timeout", "1m"),
        ("max_querier_bytes_read", "150GB"),
        ("max_streams_matchers_per_query", "1000"),
        ("max_concurrent_tail_requests", "10"),
        ("volume_enabled", "true"),
        ("volume_max_series", "1000"),
        ("split_queries_by_interval", "1h"),
        ("retention_period", "0s"),
        ("deletion_mode", "filter-and-delete"),
    ] {
        check(key, expected);
    }
    assert_eq!(Limits::default().discover_service_name.len(), 13);
    assert_eq!(Limits::default().log_level_fields.len(), 14);
    let text = serde_yaml_ng::to_string(&Limits::default()).unwrap();
    assert_eq!(serde_yaml_ng::from_str::<Limits>(&text).unwrap(), Limits::default());
}

#[test]
fn changes() {
    let check = |yaml: &str, expected: Result<&dyn Fn(&Limits) -> bool, &str>| {
        let found = Limits::default().changed(&serde_yaml_ng::from_str(yaml).unwrap());
        match (found, expected) {
            (Ok(limits), Ok(is_right)) => assert!(is_right(&limits), "{yaml}"),
            (Err(problems), Err(text)) => assert!(problems.join("; ").contains(text), "{problems:?}"),
            (found, _) => panic!("{yaml}: {found:?}"),
        }
    };
    check("{ingestion_rate_mb: 20}", Ok(&|l| l.ingestion_rate_mb == 20.0 && l.max_query_series == 500));
    check("{max_line_size: 1000}", Ok(&|l| l.max_line_size.bytes() == 1000));
    check(
        "{shard_streams: {enabled: false}}",
        Ok(&|l| !l.shard_streams.enabled && l.shard_streams.desired_rate.bytes() > 0),
    );
    check("{max_query_series: null}", Ok(&|l| l.max_query_series == 500));
    check("{enforced_labels: 'a, b'}", Ok(&|l| l.enforced_labels == ["a", "b"]));
    check("{block_ingestion_until: '2030-01-01T00:00:00Z'}", Ok(&|l| l.block_ingestion_until.is_some()));
    check(
        "{retention_stream: [{selector: '{a=\"b\"}', priority: 1, period: 24h}]}",
        Ok(&|l| l.retention_stream[0].period == PromDuration::from_hours(24)),
    );
    check(
        "{otlp_config: {log_attributes: [{action: index_label, attributes: [a]}], severity_text_as_label: true}}",
        Ok(&|l| l.otlp_config.log_attributes[0].action == AttributeAction::IndexLabel),
    );
    check("{ingestion_rate: 3}", Err("there is no limit \"ingestion_rate\"; did you mean \"ingestion_rate_mb\"?"));
    check("{max_line_size: lots}", Err("max_line_size: \"lots\" is not a size"));
    check("{query_timeout: 5}", Err("query_timeout: "));
    check("{max_query_series: -1}", Err("max_query_series: "));
    check("{ingestion_rate_mb: -1}", Err("ingestion_rate_mb: must be"));
    check("{retention_period: 1h}", Err("retention_period: must be at least 24h"));
    check("{deletion_mode: maybe}", Err("deletion_mode: "));
    check("{otlp_config: {log_attributes: [{action: drop}]}}", Err("either attributes or a regex"));
    check("{otlp_config: {log_attributes: [{action: drop, regex: '('}]}}", Err("otlp_config: regex"));
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn rate(overrides: &Overrides, tenant: &str) -> f64 {
    overrides.for_tenant(&TenantId::new(tenant).unwrap()).ingestion_rate_mb
}

#[test]
fn files_are_merged_in_order() {
    let files = Files::new();
    let a = files.write(
        "a.yaml",
        "overrides:\n  x: {ingestion_rate_mb: 10, max_query_series: 7}\n  29: {ingestion_rate_mb: 29}\n",
    );
    let b = files.write(
        "b.yaml",
        "overrides:\n  x: {ingestion_rate_mb: 11}\n  y:\nconfigs:\n  x: {log_stream_creation: true}\nmulti_kv_config: {}\n",
    );
    let empty = files.write("empty.yaml", "");
    let defaults = Limits { ingestion_rate_mb: 1.0, ..Limits::default() };
    let overrides = Overrides::load(defaults, vec![a, b, empty]).unwrap();
    let found = ["x", "y", "29", "z"].map(|t| rate(&overrides, t));
    assert_eq!(found, [11.0, 1.0, 29.0, 1.0]);
    assert_eq!(overrides.for_tenant(&TenantId::new("x").unwrap()).max_query_series, 7);
    assert_eq!(overrides.tenants().len(), 3);
}

#[test]
fn problems_are_all_named() {
    let files = Files::new();
    let path = files
        .write("a.yaml", "override: {}\noverrides:\n  x: {ingestion_rate: 1, max_line_size: z}\n  'a/b': {}\n  y: 3\n");
    let text = Overrides::load(Limits::default(), vec![path]).unwrap_err().to_string();
    for expected in [
        "there is no section \"override\"; did you mean \"overrides\"?",
        "overrides: x: there is no limit \"ingestion_rate\"",
        "overrides: x: max_line_size: ",
        "unsupported character '/'",
        "overrides: y: expected a mapping",
    ] {
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
    let missing = Overrides::load(Limits::default(), vec!["no-such-file".into()]).unwrap_err();
    assert!(matches!(missing, LimitsError::Read { .. }));
    let broken = files.write("broken.yaml", "a: [");
    assert!(matches!(Overrides::load(Limits::default(), vec![broken]).unwrap_err(), LimitsError::Yaml { .. }));
}

#[allow(clippy::disallowed_methods, reason = "the test waits for the task at its end")]
#[tokio::test]
async fn reload_keeps_the_old_values_on_error() {
    let files = Files::new();
    let path = files.write("a.yaml", "overrides: {x: {ingestion_rate_mb: 10}}");
    let overrides = Arc::new(Overrides::load(Limits::default(), vec![path]).unwrap());
    let gauge = Arc::new(AtomicI32::new(-1));
    let shown = gauge.clone();
    overrides.on_reload(move |is_good| shown.store(i32::from(is_good), Ordering::SeqCst));
    assert_eq!(gauge.load(Ordering::SeqCst), 1);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(overrides.clone().watch(Duration::from_millis(5), shutdown.clone()));
    let until = async |is_done: &dyn Fn() -> bool| {
        for _ in 0..2000 {
            if is_done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it did not happen");
    };
    files.write("a.yaml", "overrides: {x: {ingestion_rate_mb: 12}}");
    until(&|| rate(&overrides, "x") == 12.0).await;
    files.write("a.yaml", "overrides: {x: {ingestion_rate_mb: no}}");
    until(&|| gauge.load(Ordering::SeqCst) == 0).await;
    assert_eq!(rate(&overrides, "x"), 12.0);
    assert!(!overrides.is_last_reload_successful());
    files.write("a.yaml", "overrides: {}");
    until(&|| rate(&overrides, "x") == 4.0).await;
    shutdown.cancel();
    task.await.unwrap();
}
