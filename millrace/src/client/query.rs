//! `query`: runs a LogQL query and prints the result.

use std::io::{self, Write};

use anyhow::{Context as _, bail};
use model::TimestampNs;
use serde_json::Value;

use super::{Client, labels_of};
use crate::{
    cli::{Output, QueryArgs},
    times::shown_to_nanos,
};

pub(crate) fn run(args: &QueryArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client);
    let mut parameters = vec![("query", args.query.clone()), ("limit", args.limit.to_string())];
    let path = if args.instant {
        parameters.extend(args.to.clone().map(|to| ("time", to)));
        "/loki/api/v1/query"
    } else {
        let direction = if args.forward { "forward" } else { "backward" };
        parameters.push(("direction", direction.to_owned()));
        parameters.push(("since", args.since.clone()));
        parameters.extend(args.from.clone().map(|from| ("start", from)));
        parameters.extend(args.to.clone().map(|to| ("end", to)));
        parameters.extend(args.step.clone().map(|step| ("step", step)));
        "/loki/api/v1/query_range"
    };
    let answer = client.get(path, &parameters)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    if matches!(args.output, Output::Json) {
        writeln!(out, "{answer}")?;
    } else {
        print_answer(&mut out, &answer["data"], args)?;
    }
    out.flush().context("cannot write the answer")?;
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", warning.as_str().unwrap_or_default());
    }
    if args.stats {
        eprintln!("{}", answer["data"]["stats"]["summary"]);
    }
    Ok(())
}

fn print_answer(out: &mut impl Write, data: &Value, args: &QueryArgs) -> anyhow::Result<()> {
    let result = &data["result"];
    let rows = result.as_array().map(Vec::as_slice).unwrap_or_default();
    match data["resultType"].as_str() {
        Some("streams") => print_streams(out, rows, args.output, args.forward)?,
        Some("matrix") => {
            for series in rows {
                writeln!(out, "{}", labels_of(&series["metric"]))?;
                for point in series["values"].as_array().into_iter().flatten() {
                    print_point(out, "  ", point)?;
                }
            }
        }
        Some("vector") => {
            for sample in rows {
                print_point(out, &format!("{} ", labels_of(&sample["metric"])), &sample["value"])?;
            }
        }
        Some("scalar") => print_point(out, "", result)?,
        other => bail!("the server returned a result of type {other:?}, which this client cannot print"),
    }
    Ok(())
}

/// Prints the entries of all streams in order of time: `forward` prints the oldest first.
pub(super) fn print_streams(out: &mut impl Write, streams: &[Value], output: Output, forward: bool) -> io::Result<()> {
    let mut entries = Vec::new();
    for stream in streams {
        let labels = labels_of(&stream["stream"]).to_string();
        for value in stream["values"].as_array().into_iter().flatten() {
            let nanos: i64 = value[0].as_str().and_then(|t| t.parse().ok()).unwrap_or_default();
            entries.push((nanos, labels.clone(), value[1].as_str().unwrap_or_default()));
        }
    }
    entries.sort_by_key(|(nanos, _, _)| if forward { *nanos } else { nanos.saturating_neg() });
    for (nanos, labels, line) in entries {
        match output {
            Output::Raw => writeln!(out, "{line}")?,
            _ => writeln!(out, "{} {labels} {line}", shown_to_nanos(TimestampNs::from_nanos(nanos)))?,
        }
    }
    Ok(())
}

fn print_point(out: &mut impl Write, indent: &str, point: &Value) -> io::Result<()> {
    let millis = (point[0].as_f64().unwrap_or_default() * 1000.0).round() as i64;
    let value = point[1].as_str().unwrap_or_default();
    writeln!(out, "{indent}{} {value}", shown_to_nanos(TimestampNs::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_entries_in_the_order_asked_for() {
        let streams: Value = serde_json::json!([
            {"stream": {"a": "1"}, "values": [["2", "late"], ["1", "early"]]},
            {"stream": {"a": "2"}, "values": [["3", "last"]]},
        ]);
        let print = |output, forward| {
            let mut out = Vec::new();
            print_streams(&mut out, streams.as_array().expect("array"), output, forward).expect("memory");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(print(Output::Raw, true), "early\nlate\nlast\n");
        assert_eq!(print(Output::Raw, false), "last\nlate\nearly\n");
        assert!(print(Output::Text, true).starts_with("1970-01-01T00:00:00.000000001Z {a=\"1\"} early\n"));
    }
}
