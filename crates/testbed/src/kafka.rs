//! Apache Kafka brokers as child processes.
//!
//! [`KafkaCluster`] starts one broker, or three with replication, in KRaft mode. Each can be killed, paused, stopped and
//! restarted. The jars come from the folder that `MILLRACE_TEST_KAFKA` names, or from where `loadtest/kafka/fetch` puts
//! them.

mod admin;
mod broker;
mod options;
mod tls;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use tempfile::TempDir;

pub use admin::{KafkaAdmin, TopicOptions};
use broker::Broker;
pub use options::KafkaOptions;
use tls::Certificate;

/// Time limit for brokers to start, on a busy machine with few cores.
const START_MAX: Duration = Duration::from_secs(90);

/// A cluster of running brokers. Dropping it stops them.
pub struct KafkaCluster {
    brokers: Vec<Broker>,
    folder: PathBuf,
    certificate: Option<Certificate>,
    /// Removed after the brokers have stopped.
    _temporary: Option<TempDir>,
}

impl KafkaCluster {
    /// Starts brokers and waits until all of them answer. Blocks for some seconds.
    ///
    /// # Errors
    /// If there are no jars or no Java, or if the brokers do not start. The text then includes their output.
    pub fn start(options: KafkaOptions) -> Result<Self> {
        ensure!(matches!(options.brokers, 1 | 3), "a cluster has 1 or 3 brokers, not {}", options.brokers);
        let jars = jars()?;
        // Another process may take a free port before its broker does.
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_start(&options, &jars) {
                Err(error) if tries < 3 && format!("{error:#}").contains("Address already in use") => {}
                done => return done,
            }
        }
    }

    fn try_start(options: &KafkaOptions, jars: &Path) -> Result<Self> {
        let temporary = match options.folder {
            Some(_) => None,
            None => Some(TempDir::with_prefix("millrace-kafka-")?),
        };
        let folder = match (&options.folder, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => bail!("there is no folder"),
        };
        std::fs::create_dir_all(&folder)?;
        let certificate = options.secure.is_some().then(|| Certificate::make(&folder.join("tls"))).transpose()?;
        let brokers = broker::layout(options, certificate.as_ref(), jars, &folder)?;
        let mut cluster = Self { brokers, folder, certificate, _temporary: temporary };
        broker::format(&cluster.brokers)?;
        for broker in &mut cluster.brokers {
            broker.spawn()?;
        }
        cluster.wait_until_all_answer()?;
        Ok(cluster)
    }

    /// Returns `host:port` of every broker, joined by commas.
    pub fn bootstrap(&self) -> String {
        self.brokers.iter().map(Broker::address).collect::<Vec<_>>().join(",")
    }

    /// Like [`KafkaCluster::bootstrap`], for the TLS listeners that ask for a password.
    pub fn bootstrap_secure(&self) -> Option<String> {
        self.brokers.iter().map(Broker::secure_address).collect::<Option<Vec<_>>>().map(|all| all.join(","))
    }

    /// Returns the PEM file of the authority that clients of the TLS listeners must trust.
    pub fn authority(&self) -> Option<PathBuf> {
        self.certificate.as_ref().map(Certificate::authority)
    }

    /// Returns the folder of the brokers' data and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the number of brokers, running or not. Brokers are numbered from 0.
    pub fn len(&self) -> usize {
        self.brokers.len()
    }

    /// Always false: a cluster has at least one broker.
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Returns the pid of a running broker.
    pub fn pid(&self, broker: usize) -> Option<u32> {
        self.brokers.get(broker).and_then(Broker::pid)
    }

    /// Kills a broker with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If there is no such broker.
    pub fn kill(&mut self, broker: usize) -> Result<()> {
        self.broker(broker)?.kill();
        Ok(())
    }

    /// Pauses a broker (SIGSTOP).
    ///
    /// # Errors
    /// If the broker does not run.
    pub fn stop(&mut self, broker: usize) -> Result<()> {
        self.broker(broker)?.signal(rustix::process::Signal::STOP)
    }

    /// Resumes a paused broker (SIGCONT).
    ///
    /// # Errors
    /// If the broker does not run.
    pub fn cont(&mut self, broker: usize) -> Result<()> {
        self.broker(broker)?.signal(rustix::process::Signal::CONT)
    }

    /// Stops a broker with SIGTERM and waits for its exit. The broker hands over its partitions first.
    ///
    /// # Errors
    /// If the broker does not run, or does not exit within a minute. It is then killed.
    pub fn terminate(&mut self, broker: usize) -> Result<()> {
        self.broker(broker)?.terminate()
    }

    /// Starts a stopped broker on the same data and port, and waits until it answers. Kills the broker first if it runs.
    ///
    /// # Errors
    /// If the broker does not start.
    pub fn restart(&mut self, broker: usize) -> Result<()> {
        self.broker(broker)?.kill();
        self.broker(broker)?.spawn()?;
        let id = self.broker(broker)?.id();
        self.wait_until("the broker is back", |ids| ids.contains(&id))
    }

    /// Waits until every broker answers and knows all others.
    ///
    /// # Errors
    /// If this takes too long, or if a broker ended.
    pub fn wait_until_all_answer(&mut self) -> Result<()> {
        let count = self.brokers.len();
        self.wait_until("all brokers answer", |ids| ids.len() == count)
    }

    fn broker(&mut self, broker: usize) -> Result<&mut Broker> {
        let count = self.brokers.len();
        self.brokers.get_mut(broker).with_context(|| format!("there is no broker {broker} of {count}"))
    }

    fn wait_until(&mut self, what: &str, reached: impl Fn(&[i32]) -> bool) -> Result<()> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("reconnect.backoff.max.ms", "300");
        // Refused connections are expected here.
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        let client: BaseProducer = config.create()?;
        let began = Instant::now();
        loop {
            if let Ok(metadata) = client.client().fetch_metadata(None, Duration::from_millis(500)) {
                let ids: Vec<i32> = metadata.brokers().iter().map(|broker| broker.id()).collect();
                if reached(&ids) {
                    return Ok(());
                }
            }
            if let Some(ended) = self.brokers.iter_mut().find_map(Broker::unexpected_end) {
                bail!("Kafka: {ended}");
            }
            if began.elapsed() > START_MAX {
                let texts: Vec<String> = self.brokers.iter().map(Broker::log_tail).collect();
                bail!("Kafka: waited {START_MAX:?} until {what}\n{}", texts.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Returns the folder of Kafka's jars.
///
/// # Errors
/// If the folder does not exist. The text says how to get it.
pub fn jars() -> Result<PathBuf> {
    let folder = match std::env::var_os("MILLRACE_TEST_KAFKA").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            Path::new(&home).join(".cache/millrace-kafka/4.1.1")
        }
    };
    let found = std::fs::read_dir(&folder).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("kafka_2.13-")))
    });
    ensure!(
        found,
        "there is no Apache Kafka in {}: run `bash loadtest/kafka/fetch` (it needs Maven and Java 17 or newer)",
        folder.display()
    );
    Ok(folder)
}
