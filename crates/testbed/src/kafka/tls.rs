//! A self-signed certificate for 127.0.0.1, made with Java's `keytool`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

const PASSWORD: &str = "testbed";

/// A certificate, as files.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    /// Creates a certificate in `folder`.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let made = Self { folder: folder.to_owned() };
        if made.key_store().exists() {
            return Ok(made);
        }
        std::fs::create_dir_all(folder)?;
        let names = ["-ext", "SAN=IP:127.0.0.1", "-dname", "CN=127.0.0.1"];
        made.keytool(&[&["-genkeypair", "-keyalg", "RSA", "-keysize", "2048"], &names[..]].concat())?;
        let exported = made.keytool(&["-exportcert", "-rfc"])?;
        std::fs::write(made.authority(), exported)?;
        Ok(made)
    }

    /// Returns the PEM file that clients must trust.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Returns the broker properties of a listener with this certificate.
    pub(super) fn properties(&self, listener: &str) -> Vec<(String, String)> {
        let name = |setting: &str| format!("listener.name.{listener}.ssl.{setting}");
        vec![
            (name("keystore.type"), "PKCS12".to_owned()),
            (name("keystore.location"), self.key_store().display().to_string()),
            (name("keystore.password"), PASSWORD.to_owned()),
            (name("key.password"), PASSWORD.to_owned()),
        ]
    }

    fn key_store(&self) -> PathBuf {
        self.folder.join("broker.p12")
    }

    /// Runs the tool and returns its output.
    fn keytool(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new("keytool");
        command.args(arguments).args(["-alias", "broker", "-storetype", "PKCS12", "-storepass", PASSWORD, "-keystore"]);
        command.arg(self.key_store()).stdin(Stdio::null());
        let output = command.output().context("keytool, which comes with Java, does not run")?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "keytool: {told}{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }
}
