//! Signals that end the process.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT. A second signal ends the process immediately, without draining.
///
/// # Errors
/// When the process cannot listen for signals.
pub async fn shutdown_signal() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping; a second signal ends at once");
    #[expect(clippy::disallowed_methods, reason = "it holds nothing and only ever ends the process")]
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopped without draining, as asked; what was acknowledged is in the log");
        std::process::exit(130);
    });
    Ok(())
}
