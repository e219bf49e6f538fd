//! `push`: sends the lines of files or standard input as snappy-compressed protobuf, like Promtail.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use model::{Clock, Labels, SystemClock, TimestampNs};

use super::Client;
use crate::cli::PushArgs;

/// A push is sent when it reaches this size, even if it has fewer lines than --batch-lines.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Number of attempts for a push when the server is busy or unreachable.
const ATTEMPTS_MAX: u32 = 8;

/// Sends all lines in order. The timestamp of a line is the time at which it was read. Timestamps strictly increase, so
/// that a forward query returns the lines in the order of the file.
pub(crate) fn run(args: &PushArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client);
    let labels = parse_label_flags(&args.labels)?;
    let batch_lines = args.batch_lines.max(1);
    let from_stdin = args.files.is_empty() || args.files.iter().all(|f| f.as_os_str() == "-");
    let bar = progress_bar(args, from_stdin);
    let mut sender = Sender { client: &client, batch_lines, last: TimestampNs::MIN, bar: &bar, lines: 0, bytes: 0 };
    if from_stdin {
        let labels = if labels.is_empty() { vec![("job".to_owned(), "stdin".to_owned())] } else { labels };
        sender.send_all(&Labels::from_pairs(labels), &mut io::stdin().lock())?;
    } else {
        for path in &args.files {
            let mut pairs = labels.clone();
            pairs.push(("filename".to_owned(), path.display().to_string()));
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            sender.send_all(&Labels::from_pairs(pairs), &mut BufReader::with_capacity(1 << 20, file))?;
        }
    }
    let (lines, bytes) = (sender.lines, sender.bytes);
    bar.finish_and_clear();
    if !args.quiet {
        eprintln!("pushed {lines} lines, {bytes} bytes; all acknowledged");
    }
    Ok(())
}

fn progress_bar(args: &PushArgs, from_stdin: bool) -> ProgressBar {
    if args.quiet {
        return ProgressBar::hidden();
    }
    let length = |path: &Path| path.metadata().map(|m| m.len()).unwrap_or(0);
    let (bar, template) = if from_stdin {
        (ProgressBar::no_length(), "{spinner} {bytes} {binary_bytes_per_sec}")
    } else {
        let total = args.files.iter().map(|f| length(f)).sum();
        (ProgressBar::new(total), "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// `NAME=VALUE` flags as pairs.
fn parse_label_flags(flags: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    flags
        .iter()
        .map(|flag| match flag.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => bail!("--label takes NAME=VALUE, such as --label app=web, not {flag:?}"),
        })
        .collect()
}

struct Sender<'a> {
    client: &'a Client,
    batch_lines: usize,
    last: TimestampNs,
    bar: &'a ProgressBar,
    lines: u64,
    bytes: u64,
}

impl Sender<'_> {
    fn send_all(&mut self, labels: &Labels, source: &mut impl BufRead) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read =
                source.take(u64::from(u32::MAX)).read_until(b'\n', &mut line).context("cannot read the input")?;
            if read > 0 {
                self.bar.inc(read as u64);
                self.bytes += read as u64;
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                self.last = SystemClock.now().max(self.last.plus(Duration::from_nanos(1)));
                batch.add(self.last, text);
            }
            let full = batch.lines >= self.batch_lines || batch.entries.len() >= BATCH_BYTES_MAX;
            if batch.lines > 0 && (full || read == 0) {
                self.lines += batch.lines as u64;
                self.client.push(&batch.encode(labels)?)?;
                batch = Batch::default();
            }
            if read == 0 {
                return Ok(());
            }
        }
    }
}

/// The entries of one stream as protobuf (`logproto.PushRequest`, spec/http-api 2.3).
#[derive(Default)]
struct Batch {
    entries: Vec<u8>,
    lines: usize,
}

impl Batch {
    fn add(&mut self, time: TimestampNs, line: &[u8]) {
        let mut timestamp = Vec::with_capacity(16);
        timestamp.push(0x08); // seconds
        put_varint(&mut timestamp, time.nanos().div_euclid(1_000_000_000) as u64);
        timestamp.push(0x10); // nanos
        put_varint(&mut timestamp, time.nanos().rem_euclid(1_000_000_000) as u64);
        let mut entry = Vec::with_capacity(line.len() + 32);
        put_bytes(&mut entry, 1, &timestamp);
        put_bytes(&mut entry, 2, line);
        put_bytes(&mut self.entries, 2, &entry);
        self.lines += 1;
    }

    fn encode(&self, labels: &Labels) -> anyhow::Result<Vec<u8>> {
        let mut stream = Vec::with_capacity(self.entries.len() + 256);
        put_bytes(&mut stream, 1, labels.to_string().as_bytes());
        stream.extend_from_slice(&self.entries);
        let mut request = Vec::with_capacity(stream.len() + 16);
        put_bytes(&mut request, 1, &stream);
        snap::raw::Encoder::new().compress_vec(&request).context("a push cannot be compressed")
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

impl Client {
    /// Sends one push. Retries when the server is busy or the connection breaks; any other refusal is an error with the
    /// server's text.
    fn push(&self, body: &[u8]) -> anyhow::Result<()> {
        let mut wait = Duration::from_millis(100);
        for attempt in 1..=ATTEMPTS_MAX {
            let mut request = self.agent.post(format!("{}/loki/api/v1/push", self.base));
            request = request.header("Content-Type", "application/x-protobuf");
            if let Some(tenant) = &self.tenant {
                request = request.header("X-Scope-OrgID", tenant);
            }
            let trouble = match request.send(body) {
                Ok(mut response) => {
                    let status = response.status();
                    if status.is_success() {
                        return Ok(());
                    }
                    let text = response.body_mut().read_to_string().unwrap_or_default();
                    let refused = format!("the server answered {status}: {}", text.trim());
                    if status.as_u16() != 429 && !status.is_server_error() {
                        bail!(refused);
                    }
                    refused
                }
                Err(error) => format!("{}: {error}", self.unreachable()),
            };
            if attempt == ATTEMPTS_MAX {
                bail!("gave up after {ATTEMPTS_MAX} attempts; {trouble}");
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_flags() {
        let parse = |flag: &str| parse_label_flags(&[flag.to_owned()]).ok();
        assert_eq!(parse("a=b=c"), Some(vec![("a".to_owned(), "b=c".to_owned())]));
        assert_eq!(parse("=b"), None);
        assert_eq!(parse("ab"), None);
    }

    #[test]
    fn encodes_a_push() {
        let mut batch = Batch::default();
        batch.add(TimestampNs::from_nanos(1_000_000_002), b"hi\xff");
        let packed = batch.encode(&Labels::from_pairs([("a", "b")])).expect("small");
        let plain = snap::raw::Decoder::new().decompress_vec(&packed).expect("snappy");
        let entry = b"\x0a\x04\x08\x01\x10\x02\x12\x03hi\xff";
        let mut stream = b"\x0a\x07{a=\"b\"}\x12\x0b".to_vec();
        stream.extend_from_slice(entry);
        let mut expected = vec![0x0a, stream.len() as u8];
        expected.extend_from_slice(&stream);
        assert_eq!(plain, expected);
    }
}
