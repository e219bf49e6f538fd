//! Injects faults and heals them.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use testbed::{
    kafka::{KafkaAdmin, TopicOptions},
    s3::FaultSettings,
};
use tokio::runtime::Runtime;

use super::{
    schedule::{Fault, Kind, Step},
    state::ChaosRun,
    watch::Watch,
};
use crate::cluster::{Cluster, Role, TOPIC};

/// Time limit for the cluster to recover after the last fault.
pub(crate) const HEAL_MAX: Duration = Duration::from_secs(120);

/// The setting `store.s3.breaker_pause` of all processes. A process that could not reach the store refuses reads of it
/// for this long, then tries again.
pub(super) const BREAKER_PAUSE: Duration = Duration::from_secs(2);

/// Injects faults into a cluster.
pub(crate) struct Hand<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) run: &'a ChaosRun,
    pub(crate) watch: &'a Watch,
    pub(crate) admin: KafkaAdmin,
    pub(crate) runtime: Runtime,
}

impl Hand<'_> {
    /// Carries out one step: injects its faults, holds them, heals them, then rests.
    pub(crate) fn carry_out(&mut self, step: &Step) -> anyhow::Result<()> {
        let planned = step.faults.iter().all(|f| f.kind().is_planned());
        if planned {
            // A planned step excuses no failed read, so earlier faults must not cause one.
            self.settle()?;
        }
        let mut begun = Vec::new();
        for fault in &step.faults {
            let target = self.name(*fault);
            begun.push(self.run.timeline.begin(fault.kind(), target));
            self.strike(*fault).with_context(|| format!("{fault:?}"))?;
        }
        thread::sleep(step.hold);
        for (fault, span) in step.faults.iter().zip(begun) {
            self.heal(*fault).with_context(|| format!("the end of {fault:?}"))?;
            self.run.timeline.end(span);
        }
        if step.settle { self.settle() } else { self.rest() }
    }

    fn name(&mut self, fault: Fault) -> String {
        let node =
            |hand: &mut Self, role, index| hand.cluster.node(role, index).map(|n| n.id.clone()).unwrap_or_default();
        match fault {
            Fault::Kill { role, index } | Fault::Terminate { role, index } | Fault::Pause { role, index, .. } => {
                node(self, role, index)
            }
            Fault::Scale { consumers } => format!("to {consumers}"),
            Fault::Partitions { count } => format!("to {count}"),
            Fault::BrokerKill { broker } | Fault::BrokerPause { broker } | Fault::LeaderMove { broker } => {
                format!("broker-{broker}")
            }
            Fault::StoreErrors { percent } | Fault::StoreReplyLost { percent } => format!("{percent} %"),
            Fault::StoreSlow { millis } => format!("{millis} ms"),
            Fault::ClockJump { role, index, millis } => format!("{} by {} s", node(self, role, index), millis / 1000),
            Fault::KafkaAway | Fault::StoreAway | Fault::MemoryFull | Fault::ControlDeleted => String::new(),
        }
    }

    fn strike(&mut self, fault: Fault) -> anyhow::Result<()> {
        let well = FaultSettings::default;
        let store = |cluster: &Cluster, settings| cluster.store.set_faults(&settings);
        match fault {
            Fault::Kill { role, index } => self.cluster.kill_node(role, index),
            Fault::Pause { role, index, .. } => match self.cluster.node(role, index)? {
                node if node.runs() => node.pause(),
                // The process ended by itself a moment ago.
                _ => Ok(()),
            },
            Fault::Terminate { role, index } => self.drain(fault.kind(), role, index),
            Fault::Scale { consumers } => self.scale(consumers),
            Fault::Partitions { count } => {
                self.runtime.block_on(self.admin.grow_topic(TOPIC, count as usize))?;
                self.watch.set_partitions(count);
                Ok(())
            }
            Fault::BrokerKill { broker } => self.cluster.kafka.kill(broker),
            Fault::BrokerPause { broker } => self.cluster.kafka.stop(broker),
            Fault::LeaderMove { broker } => self.cluster.kafka.terminate(broker),
            Fault::KafkaAway => (0..self.cluster.kafka.len()).try_for_each(|b| self.cluster.kafka.stop(b)),
            Fault::StoreErrors { percent } => {
                store(self.cluster, FaultSettings { error_share: f64::from(percent) / 100.0, ..well() })
            }
            Fault::StoreSlow { millis } => store(self.cluster, FaultSettings { slow_ms: millis, ..well() }),
            Fault::StoreReplyLost { percent } => {
                store(self.cluster, FaultSettings { lose_reply_share: f64::from(percent) / 100.0, ..well() })
            }
            Fault::StoreAway => store(self.cluster, FaultSettings { down: true, ..well() }),
            Fault::MemoryFull => {
                self.run.burst.store(true, Ordering::Relaxed);
                store(self.cluster, FaultSettings { down: true, ..well() })
            }
            Fault::ClockJump { role, index, millis } => self.cluster.node(role, index)?.set_clock_offset(millis),
            Fault::ControlDeleted => self.runtime.block_on(self.admin.delete_topic(&control_topic())),
        }
    }

    fn heal(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill { role, index } => self.start_if_ended(role, index),
            Fault::Pause { role, index, .. } => self.cluster.node(role, index)?.resume(),
            Fault::Terminate { .. } | Fault::Scale { .. } | Fault::Partitions { .. } => Ok(()),
            Fault::BrokerKill { broker } | Fault::LeaderMove { broker } => self.cluster.kafka.restart(broker),
            Fault::BrokerPause { broker } => self.cluster.kafka.cont(broker),
            Fault::KafkaAway => (0..self.cluster.kafka.len()).try_for_each(|b| self.cluster.kafka.cont(b)),
            Fault::StoreSlow { .. } | Fault::StoreReplyLost { .. } => self.store_is_well(),
            Fault::StoreErrors { .. } | Fault::StoreAway | Fault::MemoryFull => {
                self.run.burst.store(false, Ordering::Relaxed);
                self.store_is_well()?;
                // A process with an open breaker sees no store until its pause is over.
                thread::sleep(BREAKER_PAUSE + Duration::from_secs(1));
                Ok(())
            }
            Fault::ClockJump { role, index, .. } => self.cluster.node(role, index)?.set_clock_offset(0),
            Fault::ControlDeleted => self.restore_control(),
        }
    }

    fn store_is_well(&self) -> anyhow::Result<()> {
        self.cluster.store.set_faults(&FaultSettings::default())
    }

    /// Recreates the control topic, as an operator would, unless the processes already did.
    fn restore_control(&mut self) -> anyhow::Result<()> {
        let topic = control_topic();
        let began = Instant::now();
        loop {
            if self.admin.leaders(&topic).is_ok_and(|leaders| !leaders.is_empty()) {
                return Ok(());
            }
            let settings = [("message.timestamp.type", "LogAppendTime"), ("cleanup.policy", "delete")];
            let settings = settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let what = TopicOptions { settings, ..TopicOptions::default() };
            // This fails while the deletion is in progress, and if a process is faster.
            if let Err(error) = self.runtime.block_on(self.admin.create_topic(&topic, &what))
                && began.elapsed() > Duration::from_secs(30)
            {
                return Err(error).context("the control topic cannot be made again");
            }
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// Sends SIGTERM, waits for the exit, and starts the process again.
    fn drain(&mut self, kind: Kind, role: Role, index: usize) -> anyhow::Result<()> {
        self.end_in_order(kind, role, index)?;
        self.start_if_ended(role, index)
    }

    pub(crate) fn end_in_order(&mut self, kind: Kind, role: Role, index: usize) -> anyhow::Result<()> {
        if !self.cluster.node(role, index)?.runs() {
            return Ok(());
        }
        match self.cluster.terminate_node(role, index) {
            Ok(took) => self.run.tally().drains.entry(kind).or_default().push(took),
            Err(error) => self.run.complain(format!("a drain failed: {error:#}")),
        }
        Ok(())
    }

    /// Changes the number of consumers: new ones start, or the last ones are drained.
    fn scale(&mut self, consumers: usize) -> anyhow::Result<()> {
        for index in 0..consumers {
            if index >= self.cluster.of(Role::Consumer).count() {
                self.cluster.add(Role::Consumer)?;
                self.watch.set_consumers(self.cluster.addresses(Role::Consumer));
            }
            self.start_if_ended(Role::Consumer, index)?;
        }
        for index in (consumers..self.cluster.of(Role::Consumer).count()).rev() {
            self.end_in_order(Kind::Scale, Role::Consumer, index)?;
        }
        Ok(())
    }

    pub(crate) fn start_if_ended(&mut self, role: Role, index: usize) -> anyhow::Result<()> {
        if self.cluster.node(role, index)?.pid().is_none() { self.cluster.start_node(role, index) } else { Ok(()) }
    }

    /// Pauses briefly without new faults.
    fn rest(&mut self) -> anyhow::Result<()> {
        self.restart_ended()?;
        thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Waits until everything that should run is ready and every partition has a leader.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut well = 0;
        // Two checks in a row, so that the second one cannot rest on old data.
        while well < 2 {
            self.restart_ended()?;
            let not_ready = self.cluster.not_ready();
            if not_ready.is_empty() && self.watch.all_led() {
                well += 1;
            } else {
                well = 0;
                if began.elapsed() > HEAL_MAX {
                    bail!(
                        "not well {HEAL_MAX:?} after the last fault: not ready {not_ready:?}, all led {}",
                        self.watch.all_led()
                    );
                }
            }
            thread::sleep(Duration::from_millis(300));
        }
        self.run.timeline.settled();
        Ok(())
    }

    /// Restarts processes that ended by themselves, as an orchestrator would, and records them. If no fault was active, this
    /// breaks a promise.
    fn restart_ended(&mut self) -> anyhow::Result<()> {
        for (role, index, text) in self.cluster.ended_by_themselves()? {
            let now = Instant::now();
            let kinds: Vec<&str> = self.run.timeline.during(now, now).into_iter().map(|k| k.name()).collect();
            println!("  {text}, amid {kinds:?}");
            if kinds.is_empty() {
                self.run.complain(text.clone());
            }
            self.run.tally().ended_by_themselves.push(format!("{text}, amid {kinds:?}"));
            self.start_if_ended(role, index)?;
        }
        Ok(())
    }
}

fn control_topic() -> String {
    format!("{TOPIC}-control")
}
