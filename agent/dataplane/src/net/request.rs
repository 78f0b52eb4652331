//! Requests to the kernel: bounded in time, and dumps that know whether they are whole.

use std::future::Future;
use std::io;
use std::num::NonZeroI32;
use std::time::Duration;

use futures::StreamExt as _;
use netlink_packet_core::{ErrorMessage, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;

use super::{Net, NetError};

/// How long the kernel may take for an answer. It takes microseconds; an answer that was lost (no
/// memory for it) never comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often a dump is begun anew because something changed meanwhile.
const ATTEMPTS: usize = 8;

/// What a dump said.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) messages: Vec<RouteNetlinkMessage>,
    /// Nothing came or went meanwhile, which would let the kernel skip what was there all the time.
    pub(super) whole: bool,
}

/// A connection of its own for requests, driven by the runtime.
pub(super) fn connect() -> io::Result<Handle> {
    // With strict checking the kernel filters dumps by interface.
    let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    // The end of a dump says whether it went well.
    connection.set_forward_done(true);
    tokio::spawn(connection);
    Ok(handle)
}

impl Net {
    pub(super) fn handle(&self) -> Handle {
        let handle = self.handle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        handle.clone()
    }

    /// Waits for the end of a request, but not for ever.
    pub(super) async fn bounded<T>(
        &self,
        what: impl Into<String>,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetError> {
        match tokio::time::timeout(self.patience, request).await {
            Ok(result) => {
                if matches!(result, Err(rtnetlink::Error::RequestFailed)) {
                    // Nobody drives the connection any more.
                    self.reconnect();
                }
                result.map_err(NetError::netlink(what))
            }
            Err(_) => {
                // What the old socket has under way would be in the way of the next dump.
                self.reconnect();
                Err(NetError::Silent {
                    what: what.into(),
                    patience: self.patience,
                })
            }
        }
    }

    /// Another connection for what follows. Where there is none to be had, the next failure tries
    /// again.
    fn reconnect(&self) {
        if let Ok(handle) = connect() {
            *self.handle.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = handle;
        }
    }

    /// Everything that a request asks for; begun anew for as long as it is interrupted, within
    /// reason.
    pub(super) async fn dump(&self, what: &str, request: &RouteNetlinkMessage) -> Result<Dump, NetError> {
        let mut attempt = 1;
        loop {
            let dump = self
                .bounded(what, self.answers(request, NLM_F_REQUEST | NLM_F_DUMP))
                .await?;
            if dump.whole || attempt == ATTEMPTS {
                return Ok(dump);
            }
            attempt += 1;
        }
    }

    /// All answers to one request.
    async fn answers(&self, request: &RouteNetlinkMessage, flags: u16) -> Result<Dump, rtnetlink::Error> {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = flags;
        let mut answers = self.handle().request(message)?;
        let mut dump = Dump {
            messages: Vec::new(),
            whole: true,
        };
        while let Some(answer) = answers.next().await {
            dump.add(answer)?;
        }
        Ok(dump)
    }

    /// One thing by its name or number; `None` = there is no such thing.
    pub(super) async fn ask(
        &self,
        what: &str,
        request: &RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetError> {
        match self.bounded(what, self.answers(request, NLM_F_REQUEST)).await {
            Ok(mut answers) => Ok(answers.messages.pop()),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Dump {
    fn add(&mut self, answer: NetlinkMessage<RouteNetlinkMessage>) -> Result<(), rtnetlink::Error> {
        self.whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => self.messages.push(message),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(rtnetlink::Error::NetlinkError(error)),
            NetlinkPayload::Done(done) => {
                if let Some(code) = NonZeroI32::new(done.code) {
                    let mut error = ErrorMessage::default();
                    error.code = Some(code);
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
            }
            // Some of the answer was lost.
            NetlinkPayload::Overrun(_) => self.whole = false,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn an_interrupted_dump_is_not_whole() {
        let mut dump = Dump {
            messages: Vec::new(),
            whole: true,
        };
        let mut answer = NetlinkMessage::from(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        dump.add(answer.clone()).unwrap();
        assert!(dump.whole);
        answer.header.flags |= NLM_F_DUMP_INTR;
        dump.add(answer.clone()).unwrap();
        answer.header.flags = 0;
        dump.add(answer).unwrap();
        assert!(!dump.whole);
        assert_eq!(dump.messages.len(), 3);
    }

    #[test]
    fn silence_is_an_error_and_ends_with_a_new_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut net, _events) = Net::open(3).unwrap();
            net.patience = Duration::from_millis(50);
            // Nobody drives this connection: what is asked is never answered.
            let (_connection, silent, _) = rtnetlink::new_connection().unwrap();
            *net.handle.lock().unwrap() = silent;
            let error = net.links().await.unwrap_err().to_string();
            assert!(error.contains("list links") && error.contains("no answer"), "{error}");
            net.patience = PATIENCE;
            assert!(net.links().await.unwrap().list.iter().any(|link| &*link.name == "lo"));
        });
    }
}
