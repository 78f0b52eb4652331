//! Where the servers listen, and with which certificates.

use std::path::PathBuf;

use super::FromSetting;

/// Where to listen: host, port, or not at all. Parts that are not said are filled from weaker
/// layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listen {
    host: Option<String>,
    port: Option<u16>,
    enabled: Option<bool>,
}

impl Listen {
    /// Listens on this host (empty = every address) and port.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: Some(host.to_owned()),
            port: Some(port),
            enabled: Some(true),
        }
    }

    /// Host (empty = every address) and port; `None` = do not listen.
    pub fn address(&self) -> Option<(&str, u16)> {
        let (host, port) = (self.host.as_deref().unwrap_or(""), self.port.unwrap_or(0));
        self.enabled.unwrap_or(true).then_some((host, port))
    }

    /// `prometheusMetricsHost`, `healthHost`.
    pub fn set_host(&mut self, text: &str) -> Result<(), String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '%');
        if !text.chars().all(good) {
            return Err("not a host or address".to_owned());
        }
        self.host = Some(text.to_owned());
        Ok(())
    }

    /// `prometheusMetricsPort`, `healthPort`.
    pub fn set_port(&mut self, text: &str) -> Result<(), String> {
        self.port = Some(text.trim().parse().map_err(|_| "not a port (0 to 65535)".to_owned())?);
        Ok(())
    }

    /// `prometheusMetricsEnabled`, `healthEnabled`.
    pub fn set_enabled(&mut self, text: &str) -> Result<(), String> {
        self.enabled = Some(bool::from_setting(text)?);
        Ok(())
    }
}

/// `ADDRESS:PORT`, `[V6]:PORT`, `:PORT`, `PORT` or `none`.
impl FromSetting for Listen {
    fn from_setting(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self {
                enabled: Some(false),
                ..Self::default()
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host.trim_start_matches('[').trim_end_matches(']'), port),
            None => ("", text),
        };
        let mut listen = Self {
            enabled: Some(true),
            ..Self::default()
        };
        listen.set_host(host)?;
        listen
            .set_port(port)
            .map_err(|_| "not [ADDRESS]:PORT or none".to_owned())?;
        Ok(listen)
    }

    fn fill(&mut self, weaker: &Self) {
        self.host = self.host.take().or_else(|| weaker.host.clone());
        self.port = self.port.or(weaker.port);
        self.enabled = self.enabled.or(weaker.enabled);
    }
}

/// A file that a setting may name; an empty text names none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionalPath(pub Option<PathBuf>);

impl FromSetting for OptionalPath {
    fn from_setting(text: &str) -> Result<Self, String> {
        Ok(Self((!text.is_empty()).then(|| PathBuf::from(text))))
    }
}

/// `prometheusMetricsClientAuth`: what the metrics server asks of clients, where it has a
/// certificate. The words are Go's, as in Felix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// A certificate of the named authority.
    #[default]
    RequireAndVerifyClientCert,
    /// If the client gives a certificate, one of the named authority.
    VerifyClientCertIfGiven,
    /// Nothing.
    NoClientCert,
}

impl FromSetting for ClientAuth {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "requireandverifyclientcert" => Ok(Self::RequireAndVerifyClientCert),
            "verifyclientcertifgiven" => Ok(Self::VerifyClientCertIfGiven),
            "noclientcert" => Ok(Self::NoClientCert),
            _ => Err("not RequireAndVerifyClientCert, VerifyClientCertIfGiven or NoClientCert".to_owned()),
        }
    }
}

/// Certificates of the metrics server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsTls {
    /// The server's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The authority of clients' certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// What is asked of clients.
    pub client_auth: ClientAuth,
}
