//! What others have put before a workload's packets by traffic control: classifiers at `clsact` or
//! `ingress`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{Net, NetError};

/// Traffic control of others at an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classifiers {
    /// The kind, the name and the place of each filter, for people.
    pub filters: Arc<[String]>,
}

impl Net {
    /// Returns the interfaces with a place for classifiers, and what is there; of one interface, or
    /// of all of them. It fails if netlink does.
    pub async fn classifiers(&self, only: Option<u32>) -> Result<BTreeMap<u32, Classifiers>, NetError> {
        let index = only.map_or(0, |index| index.cast_signed());
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index));
        let listed = match self.dump("list queueing disciplines", &request).await {
            Err(error) if error.errno() == Some(libc::ENODEV) => return Ok(BTreeMap::new()),
            other => other?,
        };
        let mut found = BTreeMap::new();
        for message in listed.messages {
            let RouteNetlinkMessage::NewQueueDiscipline(message) = message else {
                continue;
            };
            let both = match kind(&message) {
                Some("clsact") => true,
                Some("ingress") => false,
                _ => continue,
            };
            let index = message.header.index;
            let mut filters = self.filters(index, TcHandle::MIN_INGRESS, "ingress").await?;
            if both {
                filters.extend(self.filters(index, TcHandle::MIN_EGRESS, "egress").await?);
            }
            found.insert(
                index.cast_unsigned(),
                Classifiers {
                    filters: filters.into_iter().collect(),
                },
            );
        }
        if let Some(only) = only {
            found.retain(|index, _| *index == only);
        }
        Ok(found)
    }

    async fn filters(&self, index: i32, place: u16, name: &str) -> Result<BTreeSet<String>, NetError> {
        let mut request = TcMessage::with_index(index);
        request.header.parent = TcHandle {
            major: u16::MAX,
            minor: place,
        };
        let request = RouteNetlinkMessage::GetTrafficFilter(request);
        let listed = match self.dump("list filters", &request).await {
            // Gone meanwhile.
            Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
                return Ok(BTreeSet::new());
            }
            other => other?,
        };
        let messages = listed.messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
            _ => None,
        });
        // Every chain begins with a message of its own, that names no filter.
        let filters = messages.filter(|message| u32::from(message.header.handle) != 0);
        Ok(filters
            .map(|message| format!("{} ({name})", describe(&message)))
            .collect())
    }
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

fn describe(message: &TcMessage) -> String {
    let mut text = kind(message).unwrap_or("filter").to_owned();
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => text += &format!(" {name}"),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => text += &format!(" program {id}"),
            _ => {}
        }
    }
    text
}
