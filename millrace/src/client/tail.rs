//! `tail`: follows entries over a WebSocket.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use super::{percent_encode, query::print_streams};
use crate::cli::{Output, TailArgs};

/// Prints entries until the server closes the connection or the user stops the command.
pub(crate) async fn run(args: &TailArgs) -> anyhow::Result<()> {
    let base = args.client.addr.trim_end_matches('/');
    let Some(host) = base.strip_prefix("http://") else {
        bail!("tail supports only http://, not {base:?}");
    };
    let url = format!("ws://{host}/loki/api/v1/tail?query={}&limit={}", percent_encode(&args.query), args.limit);
    let mut request = url.into_client_request().context("--addr is not the address of a server")?;
    if let Some(tenant) = &args.client.tenant {
        request.headers_mut().insert("X-Scope-OrgID", tenant.parse().context("--tenant cannot be sent as a header")?);
    }
    let (mut socket, _) = match tokio_tungstenite::connect_async(request).await {
        Ok(connected) => connected,
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            let text = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            bail!("the server answered {}: {}", response.status(), text.trim());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot reach {base}")),
    };
    while let Some(message) = socket.next().await {
        match message.context("the connection broke")? {
            Message::Text(text) => print_frame(&text, args.output)?,
            Message::Close(Some(frame)) if !frame.reason.is_empty() => {
                bail!("the server closed the connection: {}", frame.reason)
            }
            _ => {}
        }
    }
    Ok(())
}

fn print_frame(text: &str, output: Output) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if matches!(output, Output::Json) {
        writeln!(out, "{text}")?;
    } else {
        let frame: serde_json::Value =
            serde_json::from_str(text).context("the server sent a message that is not JSON")?;
        print_streams(&mut out, frame["streams"].as_array().map(Vec::as_slice).unwrap_or_default(), output, true)?;
        let dropped = frame["dropped_entries"].as_array().map_or(0, Vec::len);
        if dropped > 0 {
            eprintln!(
                "warning: {dropped} entries were dropped, because they arrived faster than this client read them"
            );
        }
    }
    out.flush().context("cannot write the answer")
}
