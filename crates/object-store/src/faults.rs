//! Injects faults for tests: errors before the effect, errors after it (as if the reply got lost), and delays.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version};

/// An operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`ObjectStore::get`].
    Get,
    /// [`ObjectStore::get_range`], or one call of [`ObjectStore::get_ranges`].
    GetRange,
    /// [`ObjectStore::head`].
    Head,
    /// [`ObjectStore::put`].
    Put,
    /// [`ObjectStore::delete`].
    Delete,
    /// [`ObjectStore::list`].
    List,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 6] = [Self::Get, Self::GetRange, Self::Head, Self::Put, Self::Delete, Self::List];
}

/// The effect of a fault on an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation fails with [`StoreError::Unavailable`] and does nothing.
    ErrorBefore,
    /// The operation happens but fails with [`StoreError::Unavailable`], as if the reply got lost.
    ErrorAfter,
    /// The operation happens after this time.
    Delay(Duration),
}

/// One rule of [`Faults`].
#[derive(Clone, Debug)]
pub struct Fault {
    /// The operations to strike. Empty means all.
    pub operations: Vec<Operation>,
    /// Strikes only keys with this prefix. Empty means all keys. For a listing, its prefix is the key.
    pub prefix: String,
    /// The effect on the operations.
    pub effect: Effect,
    /// The probability of a strike, between 0 and 1.
    pub probability: f64,
    /// The most strikes. `None` means no limit.
    pub times: Option<u64>,
}

impl Fault {
    /// Strikes every operation on every key, always. Narrow it with struct update syntax.
    pub fn always(effect: Effect) -> Self {
        Self { operations: Vec::new(), prefix: String::new(), effect, probability: 1.0, times: None }
    }

    /// Strikes the next operation of this kind once.
    pub fn once(operation: Operation, effect: Effect) -> Self {
        Self { operations: vec![operation], times: Some(1), ..Self::always(effect) }
    }
}

/// The number of calls and faults of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of calls.
    pub calls: u64,
    /// Number of calls struck by [`Effect::ErrorBefore`].
    pub errors_before: u64,
    /// Number of calls struck by [`Effect::ErrorAfter`].
    pub errors_after: u64,
    /// Number of calls struck by [`Effect::Delay`].
    pub delays: u64,
}

/// A store that injects faults into another one. The same seed and order of calls produce the same faults.
pub struct Faults {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
}

struct State {
    random: fastrand::Rng,
    rules: Vec<Fault>,
    counts: HashMap<Operation, Counts>,
}

/// The faults to inject into one call.
#[derive(Default)]
struct CallFaults {
    delay: Duration,
    error_before: bool,
    error_after: bool,
}

impl Faults {
    /// Wraps a store, without any rules yet.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        let state = State { random: fastrand::Rng::with_seed(seed), rules: Vec::new(), counts: HashMap::new() };
        Self { inner, state: Mutex::new(state) }
    }

    /// Adds a rule. Rules strike independently of one another.
    pub fn add(&self, fault: Fault) {
        self.state.lock().rules.push(fault);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.state.lock().rules.clear();
    }

    /// The calls and faults of an operation so far.
    pub fn counts(&self, operation: Operation) -> Counts {
        self.state.lock().counts.get(&operation).copied().unwrap_or_default()
    }

    fn faults_of_call(&self, operation: Operation, key: &str) -> CallFaults {
        let mut state = self.state.lock();
        let State { random, rules, counts } = &mut *state;
        let counts = counts.entry(operation).or_default();
        counts.calls += 1;
        let mut faults = CallFaults::default();
        for rule in rules.iter_mut() {
            let concerns = rule.operations.is_empty() || rule.operations.contains(&operation);
            if !concerns || !key.starts_with(&rule.prefix) || rule.times == Some(0) || random.f64() >= rule.probability
            {
                continue;
            }
            rule.times = rule.times.map(|times| times - 1);
            match rule.effect {
                Effect::ErrorBefore => faults.error_before = true,
                Effect::ErrorAfter => faults.error_after = true,
                Effect::Delay(delay) => faults.delay += delay,
            }
        }
        counts.delays += u64::from(faults.delay > Duration::ZERO);
        counts.errors_before += u64::from(faults.error_before);
        counts.errors_after += u64::from(faults.error_after && !faults.error_before);
        faults
    }

    async fn strike<T>(
        &self,
        operation: Operation,
        key: &str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let faults = self.faults_of_call(operation, key);
        if faults.delay > Duration::ZERO {
            tokio::time::sleep(faults.delay).await;
        }
        let unavailable = |reason: &str| StoreError::Unavailable {
            doing: format!("{operation:?} of {key:?}"),
            reason: reason.to_owned(),
        };
        if faults.error_before {
            return Err(unavailable("injected before the effect"));
        }
        let answer = call.await;
        if faults.error_after { Err(unavailable("injected after the effect")) } else { answer }
    }
}

#[async_trait]
impl ObjectStore for Faults {
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.strike(Operation::Get, key.as_str(), self.inner.get(key)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.strike(Operation::GetRange, key.as_str(), self.inner.get_range(key, range)).await
    }

    async fn get_ranges(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        self.strike(Operation::GetRange, key.as_str(), self.inner.get_ranges(key, ranges)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.strike(Operation::Head, key.as_str(), self.inner.head(key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError> {
        self.strike(Operation::Put, key.as_str(), self.inner.put(key, bytes, condition)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.strike(Operation::Delete, key.as_str(), self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.strike(Operation::List, prefix, self.inner.list(prefix)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    fn put(faults: &Faults, name: &str) -> impl Future<Output = Result<Version, StoreError>> {
        let key = key(name);
        async move { faults.put(&key, Bytes::from_static(b"x"), PutCondition::IfAbsent).await }
    }

    #[tokio::test]
    async fn errors_before_and_after_the_effect() {
        let faults = Faults::new(Arc::new(MemoryStore::new()), 1);
        faults.add(Fault::once(Operation::Put, Effect::ErrorBefore));
        assert!(matches!(put(&faults, "a").await, Err(StoreError::Unavailable { .. })));
        assert!(matches!(faults.get(&key("a")).await, Err(StoreError::NotFound(_))));

        faults.add(Fault::once(Operation::Put, Effect::ErrorAfter));
        assert!(matches!(put(&faults, "a").await, Err(StoreError::Unavailable { .. })));
        assert!(faults.get(&key("a")).await.is_ok());
        assert!(matches!(put(&faults, "a").await, Err(StoreError::Precondition(_))));
        assert_eq!(faults.counts(Operation::Put), Counts { calls: 3, errors_before: 1, errors_after: 1, delays: 0 });
    }

    #[tokio::test]
    async fn prefixes_probabilities_and_seeds() {
        let run = async |seed: u64| {
            let faults = Faults::new(Arc::new(MemoryStore::new()), seed);
            let prefix = "bad/".to_owned();
            faults.add(Fault { prefix, probability: 0.5, ..Fault::always(Effect::ErrorBefore) });
            let mut outcomes = Vec::new();
            for i in 0..100 {
                assert!(put(&faults, &format!("good/{i}")).await.is_ok());
                outcomes.push(put(&faults, &format!("bad/{i}")).await.is_ok());
            }
            outcomes
        };
        let first = run(7).await;
        assert_eq!(first, run(7).await);
        assert_ne!(first, run(8).await);
        assert!((25..75).contains(&first.iter().filter(|ok| **ok).count()));
    }

    #[tokio::test(start_paused = true)]
    async fn delays() {
        let faults = Faults::new(Arc::new(MemoryStore::new()), 1);
        faults.add(Fault::always(Effect::Delay(Duration::from_secs(60))));
        let started = tokio::time::Instant::now();
        assert!(put(&faults, "a").await.is_ok());
        assert_eq!(started.elapsed().as_secs(), 60);
        faults.clear();
        assert!(put(&faults, "b").await.is_ok());
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn without_faults_the_contract_holds() {
        let store: Arc<dyn ObjectStore> = Arc::new(Faults::new(Arc::new(MemoryStore::new()), 1));
        crate::contract::check_all("contract", || {
            let store = store.clone();
            async move { store }
        })
        .await;
    }
}
