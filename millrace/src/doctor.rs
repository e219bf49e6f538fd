//! `doctor`: checks what a server needs, and says how to mend what is wrong.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints its answer")]

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use log_bus::{FetchLimits, KafkaLog, LocalLog, LogBus as _, LogError};
use model::{Clock as _, Offset, SystemClock, TimestampNs};
use settings::Settings;

use crate::{backends, times::shown};

/// Free disk space below this is a warning.
const DISK_FREE_MIN: u64 = 2 << 30;
/// This release was built after this time (2025-01-01), so an earlier clock is wrong.
const CLOCK_MIN: TimestampNs = TimestampNs::from_secs(1_735_689_600);

/// The outcome of one check.
enum Finding {
    Good(String),
    Warning(String),
    Bad(String),
}

/// Prints a line for each check. Fails when something must be mended before a server can start.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    let findings = [
        ("clock", check_clock()),
        ("disk", check_disk(&settings.common.path_prefix)),
        ("log", check_log(settings).await),
        ("store", check_store(settings).await),
        ("port", check_port(settings.http())),
    ];
    let mut bad = 0;
    for (name, finding) in findings {
        let (mark, text) = match finding {
            Finding::Good(text) => ("ok     ", text),
            Finding::Warning(text) => ("warning", text),
            Finding::Bad(text) => {
                bad += 1;
                ("BAD    ", text)
            }
        };
        println!("{mark}  {name:<6} {text}");
    }
    anyhow::ensure!(bad == 0, "{bad} of the checks failed; each line says what to do");
    Ok(())
}

fn check_clock() -> Finding {
    let now = SystemClock.now();
    let shown = shown(now);
    if now < CLOCK_MIN {
        return Finding::Bad(format!(
            "the clock says {shown}: set it (for example with chrony), or the age limits of entries are applied wrongly"
        ));
    }
    Finding::Good(format!("says {shown}"))
}

/// The folder itself, or its nearest parent that exists.
fn existing(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn check_disk(folder: &Path) -> Finding {
    let at = existing(folder);
    let free = match rustix::fs::statvfs(&at) {
        Ok(found) => found.f_bavail * found.f_frsize,
        Err(error) => return Finding::Bad(format!("cannot read the free space of {}: {error}", at.display())),
    };
    if let Err(error) = tempfile_in(&at) {
        return Finding::Bad(format!(
            "cannot write to {}: {error}; choose another --data-dir, or give this user write permission",
            at.display()
        ));
    }
    let text = format!("{} MB free at {}", free >> 20, at.display());
    if free < DISK_FREE_MIN {
        return Finding::Warning(format!(
            "{text}: less than 2 GB; pushes are refused when the disk is full. Free some space, or lower log.retention_size"
        ));
    }
    Finding::Good(text)
}

fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let file = folder.join(format!(".millrace-doctor-{}", std::process::id()));
    std::fs::write(&file, b"test")?;
    std::fs::remove_file(&file)
}

async fn check_log(settings: &Settings) -> Finding {
    if settings.kafka.is_set() {
        return check_kafka(settings).await;
    }
    let folder = settings.log_folder();
    if !folder.exists() {
        return Finding::Good(format!("none yet; it will be created in {}", folder.display()));
    }
    let log = match LocalLog::open(settings.local_log()) {
        Ok(log) => log,
        Err(LogError::Open { reason, .. }) if reason.contains("another process") => {
            return Finding::Good(format!("{} is in use by a running server", folder.display()));
        }
        Err(error) => return Finding::Bad(error.to_string()),
    };
    let mut records = 0;
    for partition in (0..log.partition_count()).map(model::PartitionId::new) {
        let mut at = match log.watermarks(partition).await {
            Ok(marks) => marks.first,
            Err(error) => return Finding::Bad(error.to_string()),
        };
        // Fetching checks the checksum of every record.
        loop {
            let limits = FetchLimits { bytes_max: 8 << 20, wait_max: Duration::ZERO };
            match log.fetch(partition, at, limits).await {
                Ok(found) if found.records.is_empty() => break,
                Ok(found) => {
                    records += found.records.len();
                    at = found.next.max(at.max(Offset::ZERO));
                }
                Err(error) => return Finding::Bad(format!("partition {partition} cannot be read at {at}: {error}")),
            }
        }
    }
    Finding::Good(format!("{records} records in {}, all readable", folder.display()))
}

/// Connecting checks the settings of the topic. A missing topic is not created here, because a check changes nothing.
async fn check_kafka(settings: &Settings) -> Finding {
    let (topic, config) = (&settings.kafka.topic, settings.kafka_config());
    if config.create_topics {
        match KafkaLog::exists(&config).await {
            Ok(true) => {}
            Ok(false) => {
                let partitions = config.partitions;
                return Finding::Good(format!(
                    "topic {topic} does not exist yet; the first server creates it with {partitions} partitions"
                ));
            }
            Err(error) => return Finding::Bad(error.to_string()),
        }
    }
    let log = match KafkaLog::connect(config, None).await {
        Ok(log) => log,
        Err(error) => return Finding::Bad(error.to_string()),
    };
    match log.ends().await {
        Ok(ends) => Finding::Good(format!("topic {topic} has {} partitions; its settings are good", ends.len())),
        Err(error) => Finding::Bad(format!("topic {topic}: {error}")),
    }
}

async fn check_store(settings: &Settings) -> Finding {
    let folder = settings.store_folder();
    if !settings.uses_s3() && !folder.exists() {
        return Finding::Good(format!("none yet; it will be created in {}", folder.display()));
    }
    let (name, hint) = match settings.uses_s3() {
        true => (format!("bucket {}", settings.store.s3.bucket), "use a store with If-Match and If-None-Match on puts"),
        false => (folder.display().to_string(), "use a local file system"),
    };
    let store = match backends::connect_store(settings, None).await {
        Ok(store) => store,
        Err(error) => return Finding::Bad(format!("{name}: {error:#}")),
    };
    match object_store::self_test(store.as_ref()).await {
        Ok(()) => Finding::Good(format!("{name} supports conditional puts")),
        Err(error) => Finding::Bad(format!("{name}: {error}; {hint}")),
    }
}

fn check_port(address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::Good(format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::Warning(format!(
            "{address} is in use: if not by a running Millrace, choose another with --http HOST:PORT"
        )),
        Err(error) => {
            Finding::Bad(format!("{address}: {error}; choose an address of this machine with --http HOST:PORT"))
        }
    }
}
