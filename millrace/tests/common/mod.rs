//! The real binary as a child process, for tests that use it as a user does.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// A server on a free port, with its data in a temporary folder. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) folder: tempfile::TempDir,
    port: u16,
    settings: Vec<(String, String)>,
}

pub(crate) fn millrace() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    // What a developer has set must not change what is tested.
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("MILLRACE_")) {
        command.env_remove(name);
    }
    command
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with these `MILLRACE_…` settings and waits until it is ready.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_among(settings.iter().map(|(n, v)| (format!("MILLRACE_{n}"), (*v).to_owned())).collect())
    }

    /// As [`Server::start_with`], with whole names of variables.
    pub(crate) fn start_among(settings: Vec<(String, String)>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let child = spawn("all", folder.path(), port, &settings);
        let mut server = Self { child, url: format!("http://127.0.0.1:{port}"), folder, port, settings };
        server.wait_ready();
        server
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    fn wait_ready(&mut self) {
        let began = Instant::now();
        while get(&format!("{}/ready", self.url)).map_or(0, |(status, _)| status) != 200 {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                panic!("the server ended by itself, {status}:\n{}", self.log());
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the server is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL, then a new start on the same data.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill_and(|_| ());
    }

    /// SIGKILL, then something done to the data, then a new start.
    pub(crate) fn kill_and(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        meanwhile(&self.data_dir());
        self.start_as("all");
    }

    /// Starts a stopped server again, in another role.
    pub(crate) fn start_as(&mut self, role: &str) {
        self.child = spawn(role, self.folder.path(), self.port, &self.settings);
        self.wait_ready();
    }

    /// SIGTERM; the exit status.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("a child has a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends")
    }

    /// Runs a client command against this server.
    pub(crate) fn client(&self, arguments: &[&str]) -> Output {
        millrace().args(arguments).env("MILLRACE_ADDR", &self.url).output().expect("the binary runs")
    }

    /// As [`Server::client`], with standard input; its standard output, when it succeeds.
    pub(crate) fn client_with_input(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = millrace();
        command.args(arguments).env("MILLRACE_ADDR", &self.url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        child.stdin.take().expect("piped").write_all(input).expect("it reads");
        succeeded(child.wait_with_output().expect("it ends"))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Vec<u8>) {
        get(&format!("{}{path}", self.url)).expect("the server answers")
    }

    /// The JSON of a successful GET with these parameters.
    pub(crate) fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut request = agent().get(format!("{}{path}", self.url));
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        let mut response = request.call().expect("the server answers");
        let text = response.body_mut().read_to_string().expect("text");
        assert!(response.status().is_success(), "{path} {parameters:?}: {} {text}", response.status());
        serde_json::from_str(&text).expect("JSON")
    }

    pub(crate) fn post(&self, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
        let request = agent().post(format!("{}{path}", self.url)).header("Content-Type", content_type);
        let mut response = request.send(body).expect("the server answers");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
    }

    /// Lines of a log query, oldest first.
    pub(crate) fn lines(&self, query: &str) -> Vec<String> {
        let answer = self.ask(
            "/loki/api/v1/query_range",
            &[("query", query), ("limit", "5000"), ("direction", "forward"), ("since", "2h")],
        );
        let mut entries: Vec<(String, String)> = Vec::new();
        for stream in answer["data"]["result"].as_array().expect("streams") {
            for value in stream["values"].as_array().expect("values") {
                entries.push((value[0].as_str().expect("time").into(), value[1].as_str().expect("line").into()));
            }
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.into_iter().map(|(_, line)| line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(role: &str, folder: &Path, port: u16, settings: &[(String, String)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("server.log")).expect("a log file");
    let mut command = millrace();
    command.arg(role).arg("--data-dir").arg(folder.join("data")).arg("--http").arg(format!("127.0.0.1:{port}"));
    command.envs(settings.iter().map(|(n, v)| (n, v))).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the binary runs")
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(60))).build().into()
}

fn get(url: &str) -> Result<(u16, Vec<u8>), ureq::Error> {
    let mut response = agent().get(url).call()?;
    Ok((response.status().as_u16(), response.body_mut().read_to_vec()?))
}

/// The standard output of a command that must have succeeded.
pub(crate) fn succeeded(output: Output) -> Vec<u8> {
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout
}
