//! One broker: its properties, its process, its log file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{options::KafkaOptions, tls::Certificate};
use crate::free_ports;

/// Java options for a small heap and a quick start. Tests are too short to profit from the second compiler.
const JAVA: [&str; 4] = [
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
];

/// A broker, running or not.
pub(super) struct Broker {
    id: i32,
    port: u16,
    secure_port: Option<u16>,
    heap: String,
    jars: PathBuf,
    cluster: String,
    folder: PathBuf,
    process: Option<Process>,
}

/// The process of a broker, and a warden that kills it if this process dies.
struct Process {
    broker: Child,
    /// Waits until its pipe closes, then kills the broker.
    warden: Child,
}

/// Picks ports and writes the properties of all brokers.
pub(super) fn layout(
    options: &KafkaOptions,
    certificate: Option<&Certificate>,
    jars: &Path,
    folder: &Path,
) -> Result<Vec<Broker>> {
    let count = usize::from(options.brokers);
    let ports = free_ports(count * 3)?;
    let voters: Vec<String> = (0..count).map(|i| format!("{}@127.0.0.1:{}", i + 1, ports[count + i])).collect();
    let cluster = cluster_id();
    let mut brokers = Vec::new();
    for i in 0..count {
        let broker = Broker {
            id: i32::try_from(i + 1).context("brokers are few")?,
            port: ports[i],
            secure_port: options.secure.is_some().then_some(ports[2 * count + i]),
            heap: options.heap.clone(),
            jars: jars.to_owned(),
            cluster: cluster.clone(),
            folder: folder.join(format!("broker-{i}")),
            process: None,
        };
        std::fs::create_dir_all(&broker.folder)?;
        let mut text = String::new();
        let shown = certificate.map(|certificate| certificate.properties("secure")).unwrap_or_default();
        for (name, value) in properties(&broker, options, &voters.join(","), ports[count + i]).into_iter().chain(shown)
        {
            writeln!(text, "{name}={value}")?;
        }
        std::fs::write(broker.properties_file(), text)?;
        brokers.push(broker);
    }
    Ok(brokers)
}

fn properties(broker: &Broker, options: &KafkaOptions, voters: &str, controller: u16) -> BTreeMap<String, String> {
    let (replicas, in_sync) = if options.brokers == 1 { (1, 1) } else { (3, 2) };
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        all.insert(name.to_owned(), value);
    };
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{}", broker.port);
    if let (Some(port), Some((name, password))) = (broker.secure_port, &options.secure) {
        let _ = write!(listeners, ",SECURE://127.0.0.1:{port}");
        set("listener.name.secure.sasl.enabled.mechanisms", "PLAIN".into());
        set(
            "listener.name.secure.plain.sasl.jaas.config",
            format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_{name}=\"{password}\";"),
        );
    }
    set("advertised.listeners", listeners.clone());
    set("listeners", format!("{listeners},CONTROLLER://127.0.0.1:{controller}"));
    set("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL".into());
    set("process.roles", "broker,controller".into());
    set("node.id", broker.id.to_string());
    set("controller.quorum.voters", voters.to_owned());
    set("controller.listener.names", "CONTROLLER".into());
    set("inter.broker.listener.name", "PLAINTEXT".into());
    set("log.dirs", broker.folder.join("data").display().to_string());
    for name in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        set(&format!("{name}.replication.factor"), replicas.to_string());
    }
    set("default.replication.factor", replicas.to_string());
    set("min.insync.replicas", in_sync.to_string());
    set("transaction.state.log.min.isr", in_sync.to_string());
    set("share.coordinator.state.topic.min.isr", in_sync.to_string());
    set("offsets.topic.num.partitions", "4".into());
    set("auto.create.topics.enable", "false".into());
    set("num.network.threads", "2".into());
    set("num.io.threads", "4".into());
    set("group.initial.rebalance.delay.ms", "0".into());
    set("group.min.session.timeout.ms", "1000".into());
    set("group.consumer.min.session.timeout.ms", "1000".into());
    set("group.consumer.min.heartbeat.interval.ms", "100".into());
    set("group.consumer.heartbeat.interval.ms", "500".into());
    set("group.consumer.session.timeout.ms", "6000".into());
    // Retention and deletion take effect within seconds.
    set("log.retention.check.interval.ms", "500".into());
    set("log.initial.task.delay.ms", "500".into());
    set("log.segment.delete.delay.ms", "500".into());
    // A dead broker is noticed within seconds. It gets its partitions back when it returns.
    set("broker.session.timeout.ms", "3000".into());
    set("broker.heartbeat.interval.ms", "500".into());
    set("leader.imbalance.check.interval.seconds", "5".into());
    set("leader.imbalance.per.broker.percentage", "0".into());
    all.extend(options.properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

/// Returns 16 random bytes in the encoding that Kafka uses for ids.
fn cluster_id() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // The first letter must not be a dash, or the tool takes it for an option. The last letter holds two bits.
    let mut id: String =
        (0..21).map(|i| char::from(LETTERS[fastrand::usize(..if i == 0 { 62 } else { 64 })])).collect();
    id.push('A');
    id
}

/// Formats the data folders of all brokers in parallel.
pub(super) fn format(brokers: &[Broker]) -> Result<()> {
    let tools: Vec<Child> = brokers
        .iter()
        .map(|broker| {
            let mut tool = broker.java("kafka.tools.StorageTool")?;
            tool.args(["format", "--ignore-formatted", "-t", &broker.cluster, "-c"]).arg(broker.properties_file());
            tool.spawn().context("java cannot be started: install Java 17 or newer")
        })
        .collect::<Result<_>>()?;
    for (mut tool, broker) in tools.into_iter().zip(brokers) {
        let status = tool.wait()?;
        if !status.success() {
            bail!("Kafka's storage tool ended with {status}\n{}", broker.log_tail());
        }
    }
    Ok(())
}

impl Broker {
    pub(super) fn id(&self) -> i32 {
        self.id
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn secure_address(&self) -> Option<String> {
        Some(format!("127.0.0.1:{}", self.secure_port?))
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.broker.id())
    }

    fn properties_file(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn java(&self, class: &str) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut java = Command::new("java");
        java.arg(format!("-Xmx{}", self.heap)).args(JAVA).arg("-cp").arg(self.jars.join("*")).arg(class);
        java.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(java)
    }

    pub(super) fn spawn(&mut self) -> Result<()> {
        let mut broker = self
            .java("kafka.Kafka")?
            .arg(self.properties_file())
            .spawn()
            .context("java cannot be started: install Java 17 or newer")?;
        let warden = Command::new("sh")
            .args(["-c", &format!("read -r _; kill -9 {}", broker.id())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let warden = match warden {
            Ok(warden) => warden,
            Err(error) => {
                let _ = broker.kill();
                let _ = broker.wait();
                return Err(error).context("sh cannot be started");
            }
        };
        self.process = Some(Process { broker, warden });
        Ok(())
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("broker {} does not run", self.id))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process has a number")?;
        kill_process(pid, signal).context("the broker takes no signal")
    }

    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let began = Instant::now();
        while process.broker.try_wait()?.is_none() {
            if began.elapsed() > Duration::from_secs(60) {
                bail!("broker {} does not end\n{}", self.id, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Describes how the broker ended, if it ended by itself.
    pub(super) fn unexpected_end(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.broker.try_wait().ok()??;
        Some(format!("broker {} ended with {status}\n{}", self.id, self.log_tail()))
    }

    /// Returns the end of the broker's log file.
    pub(super) fn log_tail(&self) -> String {
        let text = std::fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The warden goes first: it must not kill a later process that gets the broker's pid.
        let _ = self.warden.kill();
        let _ = self.warden.wait();
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}
