//! The control topic.

use std::time::Duration;

use bytes::Bytes;
use millrace_log_bus::{ControlBus, KafkaControl};
use model::{Clock, SystemClock};

use super::{broker, config, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_reads_everything_of_the_last_minute() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 1);
    let one = KafkaControl::connect(&config).await.unwrap();
    let two = KafkaControl::connect(&config).await.unwrap();
    for text in ["1", "2"] {
        one.publish("one", Bytes::from(text)).await.unwrap();
    }
    for control in [&one, &two] {
        for text in ["1", "2"] {
            let record = control.next().await.unwrap();
            assert_eq!((record.key.as_str(), &record.payload[..]), ("one", text.as_bytes()));
            let age = SystemClock.now().nanos() - record.append_time.nanos();
            assert!((0..60_000_000_000).contains(&age), "the topic's own time, {age} ns ago");
        }
    }
    let waiting = tokio::spawn({
        let two = two.clone();
        async move { two.next().await.unwrap().payload }
    });
    one.publish("one", Bytes::from("3")).await.unwrap();
    assert_eq!(waiting.await.unwrap(), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_is_made_anew() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 1);
    let one = KafkaControl::connect(&config).await.unwrap();
    let two = KafkaControl::connect(&config).await.unwrap();
    one.publish("one", Bytes::from("before")).await.unwrap();
    assert_eq!(two.next().await.unwrap().payload, "before");
    broker.admin().unwrap().delete_topic(&config.control_topic()).await.unwrap();
    let publishing = tokio::spawn({
        let one = one.clone();
        async move {
            loop {
                let _ = one.publish("one", Bytes::from("after")).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let began = std::time::Instant::now();
    until("it is read again", || async { two.next().await.is_ok_and(|record| record.payload == "after") }).await;
    eprintln!("the control topic was back after {:?}", began.elapsed());
    until("by the other, too", || async { one.next().await.is_ok_and(|record| record.payload == "after") }).await;
    publishing.abort();
}
