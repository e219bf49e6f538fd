//! Tells other processes about this one, and listens to them, on the control topic. Every process with Kafka has it.

use std::sync::Arc;

use axum::Router;
use control::Control;

use super::part::{Part, Phase};

pub(super) fn part(control: Arc<Control>) -> Part {
    Part::new("membership", Router::new()).with_task("control topic", Phase::Membership, async move |token| {
        control.run(token).await;
        Ok(())
    })
}
