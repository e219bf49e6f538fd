//! Resources that a process has used so far, from `/proc`.

use std::fs;

use anyhow::Context as _;

/// Returns the CPU-seconds (user and system) of a process.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let fields = stat_fields(pid)?;
    let ticks =
        |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).context("unexpected form of /proc/PID/stat");
    Ok((ticks(11)? + ticks(12)?) / rustix::param::clock_ticks_per_second() as f64)
}

/// Returns the fields of `/proc/PID/stat` from the third on: state, parent, and so on.
fn stat_fields(pid: u32) -> anyhow::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The second field is the name in parentheses, which may contain blanks. utime and stime are fields 14 and 15.
    Ok(stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect())
}

/// Returns the peak resident memory of a process, in bytes.
pub(crate) fn peak_rss_bytes(pid: u32) -> anyhow::Result<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in /proc/PID/status"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("unexpected form of /proc/PID/status")?;
    Ok(kib * 1024)
}

/// Returns the resident memory of a process, in bytes.
pub(crate) fn rss_bytes(pid: u32) -> anyhow::Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// Returns the start of a process, in clock ticks since boot. Tells a process from a later one with the same pid.
pub(crate) fn start_ticks(pid: u32) -> anyhow::Result<u64> {
    let fields = stat_fields(pid)?;
    anyhow::ensure!(fields.first().is_some_and(|state| state != "Z"), "the process has ended");
    fields.get(19).and_then(|f| f.parse().ok()).context("unexpected form of /proc/PID/stat")
}
