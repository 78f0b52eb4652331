//! Certificates of the metrics server, as Felix's settings name them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::config::{ClientAuth, MetricsTls};

/// Reads the certificates that the settings name; `None` = they name none, and metrics are served
/// without TLS.
///
/// As in Felix, a certificate and its key turn TLS on, and clients then need a certificate of the
/// named authority unless `prometheusMetricsClientAuth` says otherwise. The files are read once, at
/// the start.
pub fn acceptor(settings: &MetricsTls) -> anyhow::Result<Option<TlsAcceptor>> {
    let (cert, key) = match (&settings.cert_file, &settings.key_file) {
        (None, None) if settings.ca_file.is_none() => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        _ => bail!(
            "prometheusMetricsCertFile and prometheusMetricsKeyFile go together, and prometheusMetricsCAFile needs them"
        ),
    };
    let certificates = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| anyhow!("{}: {error}", key.display()))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match (settings.client_auth, &settings.ca_file) {
        (ClientAuth::NoClientCert, _) => builder.with_no_client_auth(),
        (_, None) => bail!(
            "prometheusMetricsClientAuth asks for certificates of clients: name their authority in prometheusMetricsCAFile"
        ),
        (auth, Some(ca)) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(ca)? {
                roots.add(certificate).with_context(|| ca.display().to_string())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match auth {
                ClientAuth::VerifyClientCertIfGiven => verifier.allow_unauthenticated(),
                ClientAuth::RequireAndVerifyClientCert | ClientAuth::NoClientCert => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().with_context(|| ca.display().to_string())?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .with_context(|| cert.display().to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// Reads all certificates of a PEM file; an error if there is none.
fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let list: Result<Vec<_>, _> = read.collect();
    let list = list.map_err(|error| anyhow!("{}: {error}", path.display()))?;
    if list.is_empty() {
        bail!("{}: no certificate in it", path.display());
    }
    Ok(list)
}
