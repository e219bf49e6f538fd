//! Bodies that were changed at random: the gateway answers, whatever comes, and what it stores can be read.

mod gateway;

use std::sync::LazyLock;

use gateway::{NOW_S, Setup, pack, proto};
use proptest::prelude::*;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

/// Pushes; the answer must be one that a push may have, and every record must decode.
fn push(content_type: &str, encoding: &str, path: &str, body: Vec<u8>) {
    RUNTIME.block_on(async {
        let setup = Setup::new("");
        let headers = [("Content-Encoding", encoding)];
        let headers = if encoding.is_empty() { &headers[..0] } else { &headers[..] };
        let (status, text, _) = setup.request(path, content_type, headers, body).await;
        assert!(matches!(status, 204 | 400 | 413 | 422), "{status} {text}");
        assert!((status == 204) == text.is_empty());
        if status != 400 && status != 204 {
            assert!(setup.rows().await.is_empty());
        }
        setup.rows().await;
    });
}

fn json() -> Vec<u8> {
    let ts = NOW_S * 1_000_000_000;
    format!(
        r#"{{"streams":[{{"stream":{{"app":"web","é":"x"}},"values":[["{ts}","a\n\u00e9 \ud83e\udd80",{{"k.1":"v"}}],["{ts}","b"]]}},
        {{"values":[["{ts}","early"]],"stream":{{"b":"c"}}}}]}}"#
    )
    .replace(",\"é\":\"x\"", "")
    .into_bytes()
}

fn changed(mut body: Vec<u8>, changes: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Vec<u8> {
    for (at, to) in changes {
        let at = at.index(body.len());
        body[at] = *to;
    }
    if let Some(cut) = cut {
        body.truncate(cut.index(body.len()));
    }
    body
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[],:09ue \x00\xff\xed\xa0".to_vec())];
    proptest::collection::vec((any::<prop::sample::Index>(), byte), 0..5)
}

fn cut() -> impl Strategy<Value = Option<prop::sample::Index>> {
    proptest::option::weighted(0.2, any::<prop::sample::Index>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn json_bodies(changes in changes(), cut in cut()) {
        push("application/json", "", "/loki/api/v1/push", changed(json(), &changes, cut));
    }

    #[test]
    fn protobuf_messages(changes in changes(), cut in cut()) {
        let message = proto(r#"{a="b"}"#, &[(NOW_S * 1_000_000_000, "line", &[("k", "v")]), (1, "", &[])]);
        push("application/x-protobuf", "", "/loki/api/v1/push", pack("snappy", &changed(message, &changes, cut)));
    }

    #[test]
    fn packed_bodies(changes in changes(), cut in cut(), packing in prop::sample::select(vec!["gzip", "deflate", "zstd", "snappy"])) {
        let body = changed(pack(packing, &json()), &changes, cut);
        match packing {
            "snappy" => push("application/x-protobuf", "", "/loki/api/v1/push", body),
            packing => push("application/json", packing, "/loki/api/v1/push", body),
        }
    }

    #[test]
    fn otlp_bodies(bytes in proptest::collection::vec(any::<u8>(), 0..100), is_json: bool) {
        push(if is_json { "application/json" } else { "application/x-protobuf" }, "", "/otlp/v1/logs", bytes);
    }

    #[test]
    fn legacy_bodies(changes in changes(), cut in cut()) {
        let body = br#"{"streams":[{"labels":"{app=\"x\"}","entries":[{"ts":"2026-11-20T12:00:00Z","line":"l"}]}]}"#;
        push("application/json", "", "/api/prom/push", changed(body.to_vec(), &changes, cut));
    }
}
