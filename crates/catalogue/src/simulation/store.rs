//! A store whose calls take steps, so that others can come between.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{Faults, Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version};
use parking_lot::Mutex;

/// One step: lets the scheduler choose who goes on.
pub(super) async fn step() {
    struct Step(bool);
    impl Future for Step {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
        }
    }
    Step(false).await;
}

/// How likely it is that a put is answered as failed while it is still on its way, in percent.
const LATE: u32 = 3;

/// Yields before the effect and before the reply. Some puts come to effect late.
pub(super) struct SteppedStore {
    faults: Arc<Faults>,
    late: Mutex<Late>,
}

struct Late {
    random: fastrand::Rng,
    puts: Vec<(ObjectKey, Bytes, PutCondition)>,
    landed: u64,
    healed: bool,
}

impl SteppedStore {
    pub(super) fn new(faults: Arc<Faults>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(1));
        Self { faults, late: Mutex::new(Late { random, puts: Vec::new(), landed: 0, healed: false }) }
    }

    /// Lets one of the puts on their way come to effect, if its condition still holds.
    pub(super) fn land_late_put(&self) {
        let mut late = self.late.lock();
        if late.puts.is_empty() {
            return;
        }
        let i = {
            let count = late.puts.len();
            late.random.usize(..count)
        };
        let (key, bytes, condition) = late.puts.swap_remove(i);
        let mut put = self.faults.put(&key, bytes, condition);
        match put.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => late.landed += u64::from(outcome.is_ok()),
            Poll::Pending => panic!("a store in memory answers at once"),
        }
    }

    /// Those that came to effect.
    pub(super) fn landed(&self) -> u64 {
        self.late.lock().landed
    }

    /// What is on its way never arrives, and nothing more is late.
    pub(super) fn heal(&self) {
        let mut late = self.late.lock();
        late.healed = true;
        late.puts.clear();
    }

    async fn stepwise<T>(&self, call: impl Future<Output = T> + Send) -> T {
        step().await;
        let answer = call.await;
        step().await;
        answer
    }
}

#[async_trait]
impl ObjectStore for SteppedStore {
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.stepwise(self.faults.get(key)).await
    }
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.stepwise(self.faults.get_range(key, range)).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.stepwise(self.faults.head(key)).await
    }
    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError> {
        let is_late = {
            let mut late = self.late.lock();
            !late.healed && late.random.u32(..100) < LATE
        };
        if is_late {
            step().await;
            self.late.lock().puts.push((key.clone(), bytes, condition));
            let doing = format!("putting {key}");
            return Err(StoreError::Unavailable { doing, reason: "injected timeout".to_owned() });
        }
        self.stepwise(self.faults.put(key, bytes, condition)).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.stepwise(self.faults.delete(key)).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.stepwise(self.faults.list(prefix)).await
    }
}
