//! Client of the running agent's socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use serde::de::DeserializeOwned;

use crate::api::{ErrorAnswer, SOCKET};

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 30;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens on the socket.
    NotRunning(PathBuf, std::io::Error),
    /// The socket is not ours to use.
    NoPermission(PathBuf),
    /// The agent said no.
    Refused(String),
    /// Something else went wrong.
    Failed(String),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning(path, error) => {
                write!(
                    f,
                    "no agent runs here: {}: {error} (another --run-dir?)",
                    path.display()
                )
            }
            Self::NoPermission(path) => write!(f, "{}: permission denied: only root may ask the agent", path.display()),
            Self::Refused(reason) => f.write_str(reason),
            Self::Failed(reason) => write!(f, "the agent did not answer: {reason}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A client of the agent that runs with this run directory.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent with this run directory.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            socket: run_dir.join(SOCKET),
        }
    }

    /// Asks; `query` is encoded here.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, ClientError> {
        let answer = tokio::time::timeout(TIMEOUT, self.request(path, query)).await;
        answer.map_err(|_| ClientError::Failed(format!("no answer within {} s", TIMEOUT.as_secs())))?
    }

    async fn request<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, ClientError> {
        use std::io::ErrorKind;
        let failed = |error: &dyn std::fmt::Display| ClientError::Failed(error.to_string());
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning(self.socket.clone(), error)
                }
                ErrorKind::PermissionDenied => ClientError::NoPermission(self.socket.clone()),
                _ => ClientError::Failed(format!("{}: {error}", self.socket.display())),
            })?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|e| failed(&e))?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::get(uri(path, query))
            .header(hyper::header::HOST, "felid")
            .body(Empty::<Bytes>::new())
            .map_err(|e| failed(&e))?;
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| failed(&e))?
            .to_bytes();
        connection.abort();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|e| failed(&e));
        }
        let answer: ErrorAnswer = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorAnswer {
            error: format!("{status}: {}", String::from_utf8_lossy(&body)),
        });
        if status.is_client_error() {
            Err(ClientError::Refused(answer.error))
        } else {
            Err(ClientError::Failed(answer.error))
        }
    }
}

/// Path with an encoded query.
fn uri(path: &str, query: &[(&str, String)]) -> String {
    let mut uri = path.to_owned();
    for (number, (name, value)) in query.iter().enumerate() {
        uri.push(if number == 0 { '?' } else { '&' });
        uri.push_str(name);
        uri.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    #[test]
    fn queries_are_encoded() {
        assert_eq!(super::uri("/v1/status", &[]), "/v1/status");
        let query = [("endpoint", "shop/web 1&x".to_owned()), ("port", "80".to_owned())];
        assert_eq!(
            super::uri("/v1/flows", &query),
            "/v1/flows?endpoint=shop%2Fweb%201%26x&port=80"
        );
    }
}
