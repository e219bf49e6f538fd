//! Tails over a real socket.

#![allow(clippy::disallowed_methods, reason = "tests own what they start")]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{NOW, World, encode, row};
use futures_util::{SinkExt, StreamExt};
use limits::{Limits, PromDuration};
use millrace_query_service::Config;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, protocol::frame::coding::CloseCode},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn serve(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = world.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn connect(address: SocketAddr, query: &str, more: &str) -> Result<Socket, Error> {
    let url = format!("ws://{address}/loki/api/v1/tail?query={}{more}", encode(query));
    connect_async(url).await.map(|(socket, _)| socket)
}

/// The next frame. Ignores pings.
async fn next(socket: &mut Socket) -> Value {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("a frame in time");
        match message.expect("an open socket").expect("a good frame") {
            Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// The next `count` lines, from any number of frames.
async fn next_lines(socket: &mut Socket, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let frame = next(socket).await;
        for stream in frame["streams"].as_array().expect("streams") {
            lines.push(stream["values"][0][1].as_str().expect("a line").to_owned());
        }
    }
    lines
}

/// Waits for the close frame, and returns its code and reason.
async fn closing(socket: &mut Socket) -> (CloseCode, String) {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("a frame in time");
        match message {
            Some(Ok(Message::Close(Some(frame)))) => return (frame.code, frame.reason.to_string()),
            Some(Ok(_)) => {}
            other => panic!("closed without a word: {other:?}"),
        }
    }
}

async fn until_followed(world: &World, tails: usize) {
    for _ in 0..500 {
        if world.owner.tail_count() == tails {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there are {} tails, not {tails}", world.owner.tail_count());
}

fn ago(secs: u64) -> model::TimestampNs {
    NOW.minus(Duration::from_secs(secs))
}

#[tokio::test]
async fn history_then_live() {
    let world = World::new(1);
    let web = [("app", "web")];
    for (secs, line) in [(50, "too old"), (40, "error 1"), (30, "fine"), (20, "error 2"), (10, "error 3")] {
        world.owner.append(0, &[row(&web, ago(secs), line)]);
    }
    let address = serve(&world).await;
    let more = format!("&limit=2&start={}", ago(45).nanos());
    let mut socket = connect(address, r#"{app="web"} |= "error""#, &more).await.expect("an upgrade");
    let first = next(&mut socket).await;
    let at = |secs: u64| ago(secs).nanos().to_string();
    assert_eq!(
        first,
        json!({"streams": [
            {"stream": {"app": "web"}, "values": [[at(20), "error 2"]]},
            {"stream": {"app": "web"}, "values": [[at(10), "error 3"]]},
        ]})
    );
    until_followed(&world, 1).await;
    world.owner.append(0, &[row(&web, ago(5), "fine again"), row(&[("app", "db")], ago(5), "error elsewhere")]);
    let mut late = row(&web, ago(4), "error 4");
    late.metadata = vec![("trace".to_owned(), "x".to_owned())];
    world.owner.append(0, &[late]);
    let frame = next(&mut socket).await;
    assert_eq!(frame, json!({"streams": [{"stream": {"app": "web", "trace": "x"}, "values": [[at(4), "error 4"]]}]}));

    socket.send(Message::Close(None)).await.expect("closed");
    until_followed(&world, 0).await;
}

#[tokio::test]
async fn labels_are_categorised_on_request() {
    let world = World::new(1);
    let address = serve(&world).await;
    let url = format!("ws://{address}/loki/api/v1/tail?query={}", encode(r#"{app="web"}"#));
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url).expect("a request");
    let flags = "categorize-labels".parse().expect("a header");
    request.headers_mut().insert("x-loki-response-encoding-flags", flags);
    let (mut socket, _) = connect_async(request).await.expect("an upgrade");
    until_followed(&world, 1).await;
    let mut entry = row(&[("app", "web")], ago(1), "x");
    entry.metadata = vec![("trace".to_owned(), "1".to_owned())];
    world.owner.append(0, &[entry]);
    let frame = next(&mut socket).await;
    assert_eq!(frame["encodingFlags"], json!(["categorize-labels"]));
    assert_eq!(frame["streams"][0]["stream"], json!({"app": "web"}));
    assert_eq!(frame["streams"][0]["values"][0][2], json!({"structuredMetadata": {"trace": "1"}}));
}

#[tokio::test]
async fn many_entries_come_in_frames_of_a_hundred() {
    let world = World::new(1);
    let address = serve(&world).await;
    let mut socket = connect(address, r#"{app="web"}"#, "").await.expect("an upgrade");
    until_followed(&world, 1).await;
    let rows: Vec<_> = (0..250).map(|i| row(&[("app", "web")], ago(10), &i.to_string())).collect();
    world.owner.append(0, &rows);
    let expected: Vec<String> = (0..250).map(|i| i.to_string()).collect();
    assert_eq!(next_lines(&mut socket, 250).await, expected);
}

#[tokio::test]
async fn entries_wait_for_their_delay() {
    let world = World::new(1);
    let address = serve(&world).await;
    let mut socket = connect(address, r#"{app="web"}"#, "&delay_for=1").await.expect("an upgrade");
    until_followed(&world, 1).await;
    let since = std::time::Instant::now();
    world.owner.append(0, &[row(&[("app", "web")], ago(1), "x")]);
    assert_eq!(next_lines(&mut socket, 1).await, ["x"]);
    assert!(since.elapsed() >= Duration::from_millis(900), "{:?}", since.elapsed());
}

#[tokio::test]
async fn old_clients_send_a_filter_as_a_parameter() {
    let world = World::new(1);
    let address = serve(&world).await;
    world.owner.append(0, &[row(&[("app", "web")], ago(9), "no"), row(&[("app", "web")], ago(8), "a \"1\"")]);
    let filter = format!("&regexp={}", encode(r#""\d""#));
    let mut socket = connect(address, r#"{app="web"} != "x""#, &filter).await.expect("an upgrade");
    assert_eq!(next_lines(&mut socket, 1).await, ["a \"1\""]);
    until_followed(&world, 1).await;
    world.owner.append(0, &[row(&[("app", "web")], ago(2), "no"), row(&[("app", "web")], ago(1), "b \"2\"")]);
    assert_eq!(next_lines(&mut socket, 1).await, ["b \"2\""]);
}

#[tokio::test]
async fn refused_before_the_upgrade() {
    let world = World::new(1);
    let address = serve(&world).await;
    let check = async |query: &str, more: &str, expected: &str| {
        let Err(Error::Http(response)) = connect(address, query, more).await else { panic!("{query} was taken") };
        let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        assert_eq!(response.status().as_u16(), 400, "{query}: {body}");
        assert!(body.contains(expected) && body.ends_with('\n'), "{query}: {body:?}");
    };
    check("{", "", "parse error").await;
    check(r#"rate({app="web"}[1m])"#, "", "only log selector is supported").await;
    check(r#"{app="web"}"#, "&delay_for=6", "delay_for can't be greater than 5").await;
    check(r#"{app="web"}"#, "&limit=x", "strconv.Atoi: parsing \"x\": invalid syntax").await;
    check(r#"{app="web"}"#, "&regexp=%28", "parse error : ").await;
    // A request without an upgrade gets the errors of its parameters, too.
    let reply = world.get("/loki/api/v1/tail?query=%7B").await;
    assert!(reply.text().contains("parse error"), "{}", reply.text());
}

#[tokio::test]
async fn ends_are_told() {
    let limits = Limits { max_concurrent_tail_requests: 1, ..Limits::default() };
    let config = Config { tail_max_duration: PromDuration::from_secs(2), ..Config::default() };
    let world = World::with(1, config, limits);
    let address = serve(&world).await;
    let mut first = connect(address, r#"{app="web"}"#, "").await.expect("an upgrade");
    until_followed(&world, 1).await;
    let mut second = connect(address, r#"{app="web"}"#, "").await.expect("an upgrade");
    let (code, text) = closing(&mut second).await;
    assert_eq!(code, CloseCode::Error);
    assert_eq!(text, "max concurrent tail requests limit exceeded, count > limit (2 > 1)");
    let (code, text) = closing(&mut first).await;
    assert_eq!((code, text.as_str()), (CloseCode::Error, "reached tail max duration limit"));

    until_followed(&world, 0).await;
    let mut third = connect(address, r#"{app="web"}"#, "").await.expect("an upgrade");
    until_followed(&world, 1).await;
    world.owner.close_tails();
    let (_, text) = closing(&mut third).await;
    assert_eq!(text, "all ingesters closed the connection");
}

#[tokio::test]
async fn the_service_stops_with_tails_open() {
    let world = World::new(1);
    let address = serve(&world).await;
    let mut socket = connect(address, r#"{app="web"}"#, "").await.expect("an upgrade");
    until_followed(&world, 1).await;
    tokio::time::timeout(Duration::from_secs(5), world.service.stop()).await.expect("stops");
    assert_eq!(closing(&mut socket).await.0, CloseCode::Away);
}
