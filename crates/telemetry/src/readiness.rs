//! Whether each service of the process is ready, for `/ready` and `/services`.

use std::{collections::BTreeMap, fmt, sync::Arc, sync::Mutex, sync::MutexGuard};

/// The life-cycle state of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// Not serving yet. The text says what it waits for.
    Starting(String),
    /// Serving.
    Running,
    /// No longer taking work.
    Stopping,
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting(_) => "Starting",
            Self::Running => "Running",
            Self::Stopping => "Stopping",
        })
    }
}

/// The states of all services of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, ServiceState>>>);

/// Sets the state of one service.
#[derive(Clone, Debug)]
pub struct ServiceHandle {
    name: String,
    all: Readiness,
}

impl Readiness {
    /// Adds a service in the state `Starting`.
    pub fn service(&self, name: &str) -> ServiceHandle {
        let handle = ServiceHandle { name: name.to_owned(), all: self.clone() };
        handle.set(ServiceState::Starting("not started yet".into()));
        handle
    }

    /// Puts all services into the state `Stopping`.
    pub fn stop(&self) {
        self.lock().values_mut().for_each(|state| *state = ServiceState::Stopping);
    }

    /// `Ok` when every service is running, or else the answer of `/ready`.
    pub fn check(&self) -> Result<(), String> {
        let states = self.lock();
        if states.values().any(|s| *s == ServiceState::Stopping) {
            return Err("Application is stopping\n".into());
        }
        let starting: Vec<String> = states
            .iter()
            .filter_map(|(name, state)| match state {
                ServiceState::Starting(why) => Some(format!("{name}: {why}\n")),
                _ => None,
            })
            .collect();
        if starting.is_empty() {
            return Ok(());
        }
        Err(format!("Some services are not Running:\nStarting: {}\n{}", starting.len(), starting.concat()))
    }

    /// Lines `name => Running`.
    pub fn list(&self) -> String {
        self.lock().iter().map(|(name, state)| format!("{name} => {state}\n")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ServiceState>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl ServiceHandle {
    /// Sets a new state.
    pub fn set(&self, state: ServiceState) {
        self.all.lock().insert(self.name.clone(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_run() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.service("a"), readiness.service("b"));
        a.set(ServiceState::Running);
        b.set(ServiceState::Starting("reading the log".into()));
        let text = "Some services are not Running:\nStarting: 1\nb: reading the log\n";
        assert_eq!(readiness.check(), Err(text.into()));
        assert_eq!(readiness.list(), "a => Running\nb => Starting\n");
        b.set(ServiceState::Running);
        assert_eq!(readiness.check(), Ok(()));
        readiness.stop();
        assert_eq!(readiness.check(), Err("Application is stopping\n".into()));
    }
}
