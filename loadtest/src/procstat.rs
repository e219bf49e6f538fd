//! What a process has used so far, from `/proc`.

use std::fs;

use anyhow::Context as _;

/// CPU-seconds (user and system) of a process.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server's process is gone")?;
    // The second field is the name in parentheses and may hold blanks; utime and stime are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).context("unexpected form of /proc/PID/stat");
    Ok((ticks(11)? + ticks(12)?) / rustix::param::clock_ticks_per_second() as f64)
}

/// The most resident memory a process ever had, in bytes.
pub(crate) fn peak_rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the server's process is gone")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM in /proc/PID/status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("unexpected form of VmHWM")?;
    Ok(kib * 1024)
}
