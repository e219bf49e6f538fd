//! Shows the progress of a replay: as a bar on a terminal, or else as a line every few seconds.

use std::{
    io::IsTerminal as _,
    sync::Arc,
    time::{Duration, Instant},
};

use block_builder::replay::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

const BAR_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// Shows progress until `done` is cancelled.
pub(super) async fn watch(progress: Arc<Progress>, done: CancellationToken) {
    let began = Instant::now();
    if !std::io::stderr().is_terminal() {
        while done.run_until_cancelled(tokio::time::sleep(LINE_PERIOD)).await.is_some() {
            eprintln!("{:>3} %  {}", percent(&progress), line(&progress, began.elapsed()));
        }
        return;
    }
    let bar = ProgressBar::new(Progress::get(&progress.offsets_total));
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    while done.run_until_cancelled(tokio::time::sleep(BAR_PERIOD)).await.is_some() {
        let total = Progress::get(&progress.offsets_total);
        bar.set_length(total);
        bar.set_position(Progress::get(&progress.offsets_done).min(total));
        bar.set_message(line(&progress, began.elapsed()));
    }
    bar.finish_and_clear();
}

fn percent(progress: &Progress) -> u64 {
    let (done, total) = (Progress::get(&progress.offsets_done), Progress::get(&progress.offsets_total));
    (done.saturating_mul(100) / total.max(1)).min(100)
}

fn line(progress: &Progress, took: Duration) -> String {
    let megabytes = Progress::get(&progress.log_bytes) as f64 / 1e6;
    let mut text = format!(
        "{megabytes:.1} MB of the log, {:.1} MB/s, {} entries, {} steps",
        megabytes / took.as_secs_f64().max(1e-3),
        Progress::get(&progress.entries),
        Progress::get(&progress.steps)
    );
    let differences = Progress::get(&progress.differences);
    if differences > 0 {
        text += &format!(", {differences} DIFFERENCES");
    }
    let retries = Progress::get(&progress.retries);
    if retries > 0 {
        text += &format!(", {retries} retries");
    }
    text
}
