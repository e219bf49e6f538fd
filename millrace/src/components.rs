//! What the parts of a process are made of. Each of these exists once in a process and is handed to every part.

use std::{net::SocketAddr, sync::Arc};

use catalogue::Heads;
use control::Control;
use limits::Overrides;
use model::{Clock, Random, SystemRandom};
use object_store::ObjectStore;
use prometheus::Registry;
use runtime::Processors;
use settings::Settings;
use telemetry::{Readiness, register_process_metrics};

use crate::{
    backends::{self, Log},
    clock, membership,
    roles::Role,
};

/// The components of a process.
pub(crate) struct Components {
    pub(crate) settings: Settings,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The one pool for work that computes.
    pub(crate) processors: Processors,
    pub(crate) overrides: Arc<Overrides>,
    pub(crate) log: Log,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) heads: Arc<Heads>,
    /// What the processes of an installation tell each other. `None` on the local log.
    pub(crate) control: Option<Arc<Control>>,
}

impl Components {
    /// Opens the log and the store. Waits for a while for Kafka and S3, which may start at the same time.
    pub(crate) async fn open(role: &Role, settings: Settings, address: SocketAddr) -> anyhow::Result<Self> {
        let registry = Registry::new();
        register_process_metrics(&registry, env!("CARGO_PKG_VERSION"))?;
        let processors = Processors::of_machine();
        processors.register(&registry)?;
        let overrides = Arc::new(Overrides::load(settings.limits_config.clone(), settings.runtime_config.files())?);
        let log = Log::open(&settings, Some(&registry)).await?;
        let store = backends::open_store(&settings, &registry).await?;
        let heads = Arc::new(Heads::new(store.clone(), &log.bus().log_id().0)?);
        let control = match &log {
            Log::Local(_) => None,
            Log::Kafka(_) => {
                let topic = backends::open_control(&settings).await?;
                let state = membership::first_state(role, &settings, address);
                Some(Control::new(settings.cluster.control.clone(), state, topic, &registry)?)
            }
        };
        Ok(Self {
            settings,
            registry,
            readiness: Readiness::default(),
            clock: clock::system()?,
            random: Arc::new(SystemRandom),
            processors,
            overrides,
            log,
            store,
            heads,
            control,
        })
    }
}
