//! OTLP values as text: strings as they are, bytes in base64, everything else as JSON.

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};

/// Appends a value's text to `out`.
pub(super) fn write_text(value: &Value, out: &mut String) {
    match value {
        Value::StringValue(text) => out.push_str(text),
        Value::BytesValue(bytes) => base64(bytes, out),
        _ => write_json(value, out),
    }
}

fn write_json(value: &Value, out: &mut String) {
    match value {
        Value::StringValue(text) => write_json_text(text, out),
        Value::BoolValue(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::IntValue(value) => out.push_str(&value.to_string()),
        Value::DoubleValue(value) => out.push_str(&value.to_string()),
        Value::BytesValue(bytes) => {
            out.push('"');
            base64(bytes, out);
            out.push('"');
        }
        Value::ArrayValue(array) => {
            out.push('[');
            for (i, item) in array.values.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write_json_or_null(item.value.as_ref(), out);
            }
            out.push(']');
        }
        Value::KvlistValue(members) => {
            let mut sorted: Vec<&KeyValue> = members.values.iter().collect();
            sorted.sort_by(|a, b| a.key.cmp(&b.key));
            out.push('{');
            for (i, member) in sorted.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write_json_text(&member.key, out);
                out.push(':');
                write_json_or_null(member.value.as_ref().and_then(|v| v.value.as_ref()), out);
            }
            out.push('}');
        }
        // References into a dictionary exist in profiles only.
        _ => out.push_str("null"),
    }
}

fn write_json_or_null(value: Option<&Value>, out: &mut String) {
    match value {
        Some(value) => write_json(value, out),
        None => out.push_str("null"),
    }
}

fn write_json_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Standard alphabet, padded.
fn base64(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let is_padding = i > chunk.len();
            let digit = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if is_padding { '=' } else { char::from(digit) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_texts() {
        let check = |bytes: &[u8], expected: &str| {
            let mut out = String::new();
            base64(bytes, &mut out);
            assert_eq!(out, expected);
        };
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"foobar", "Zm9vYmFy");
        check(&[0xff, 0xfe], "//4=");
    }
}
