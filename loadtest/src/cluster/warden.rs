//! Kills the processes of a cluster if the process that started them dies.
//!
//! A shell waits on a pipe that closes when this process dies. It then kills the processes whose pids are in a folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

/// A running warden. Dropping it leaves the processes alone, since they were stopped in order.
pub(crate) struct Warden {
    folder: PathBuf,
    shell: Child,
}

impl Warden {
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("pids");
        fs::create_dir_all(&folder)?;
        let script = r#"read -r _; cat "$1"/* 2>/dev/null | xargs -r kill -9"#;
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "warden"]).arg(&folder);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { folder, shell: shell.spawn().context("sh cannot be started")? })
    }

    pub(super) fn watch(&self, name: &str, pid: u32) -> anyhow::Result<()> {
        Ok(fs::write(self.folder.join(name), format!("{pid}\n"))?)
    }

    pub(super) fn forget(&self, name: &str) -> anyhow::Result<()> {
        let file = self.folder.join(name);
        if file.exists() {
            fs::remove_file(file)?;
        }
        Ok(())
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // The shell must die before its pipe closes: the pids may belong to other processes by now.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
