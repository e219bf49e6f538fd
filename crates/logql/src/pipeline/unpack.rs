//! `| unpack`: restores the labels and the line that an agent packed into one JSON object.

use super::{
    json,
    labels::{RowError, RowLabels},
    want::{Finder, Want, push_name},
};

/// Sets the labels of a packed line and returns the line inside it, or `None` if the line is not packed or is broken.
pub(crate) fn unpack(line: &[u8], want: &Want, labels: &mut RowLabels<'_>) -> Option<Vec<u8>> {
    if line.is_empty() {
        return None;
    }
    if line[0] != b'{' {
        labels.set_error(RowError::Json, Some("expecting json object(6), but it is not"));
        return None;
    }
    let members = match json::string_members(line) {
        Ok(members) => members,
        Err(details) => {
            labels.set_error(RowError::Json, Some(details));
            return None;
        }
    };
    let entry = members.iter().rev().find(|(key, _)| key == "_entry").map(|(_, text)| text.clone().into_bytes())?;
    let mut finder = Finder::new(labels, want);
    let mut name = String::new();
    // The last of equal keys counts, but `Finder` keeps the first one it gets. Hence the reverse order.
    for (key, text) in members.iter().rev().filter(|(key, _)| key != "_entry") {
        name.clear();
        push_name(&mut name, key);
        finder.found(&name, || text.as_str().into());
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use model::Labels;

    use super::*;

    #[test]
    fn packed_lines() {
        let check = |line: &str, expected: &str, entry: Option<&str>| {
            let stream = Labels::from_pairs([("app", "a")]);
            let mut labels = RowLabels::new(&stream, &[]);
            labels.begin(0);
            let found = unpack(line.as_bytes(), &Want::All, &mut labels);
            assert_eq!(found.as_deref(), entry.map(str::as_bytes), "{line}");
            assert_eq!(labels.to_labels().to_string(), expected, "{line}");
        };
        check(r#"{"x":"1","n":2,"_entry":"the \"line\""}"#, r#"{app="a", x="1"}"#, Some("the \"line\""));
        check(
            r#"{"x":"1","x":"2","app":"b","_entry":"a","_entry":"b"} z"#,
            r#"{app="a", app_extracted="b", x="2"}"#,
            Some("b"),
        );
        check(r#"{"x":"1"}"#, r#"{app="a"}"#, None);
        check(r#"{"x":"1","_entry":5}"#, r#"{app="a"}"#, None);
        check("", r#"{app="a"}"#, None);
        let error =
            r#"{__error__="JSONParserErr", __error_details__="expecting json object(6), but it is not", app="a"}"#;
        check(" {}", error, None);
        check("x", error, None);
    }
}
