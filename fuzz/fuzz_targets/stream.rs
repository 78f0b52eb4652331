//! Any lines of a stream of records, one input after another in one connection: the agent's side
//! goes on, and after a resync that names nothing, nothing is left of them.
#![no_main]

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{LazyLock, Mutex};

use felid_datastore::{Batch, Reading, StreamSource, Update, start};
use felid_model::{Kind, Resource, ResourceKey};
use libfuzzer_sys::fuzz_target;
use tokio::sync::mpsc::Receiver;

/// A stream that is followed.
struct Followed {
    producer: UnixStream,
    batches: Receiver<Batch>,
    in_force: BTreeSet<ResourceKey>,
    inputs: u64,
    _reading: Reading,
}

static FOLLOWED: LazyLock<Mutex<Followed>> = LazyLock::new(|| Mutex::new(Followed::new()));

impl Followed {
    fn new() -> Self {
        let state = std::env::temp_dir().join(format!("felid-fuzz-{}", std::process::id()));
        let (producer, connection) = UnixStream::pair().expect("a pair of sockets");
        let source = StreamSource::connected(OwnedFd::from(connection), "stream:fuzz").expect("a source");
        let (reading, batches) = start(source, &state).expect("a thread that follows it");
        Self {
            producer,
            batches,
            in_force: BTreeSet::new(),
            inputs: 0,
            _reading: reading,
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.producer.write_all(bytes).expect("the stream is read");
    }

    /// Takes batches until this resource is in force or is not.
    fn until(&mut self, key: &ResourceKey, there: bool) {
        while self.in_force.contains(key) != there {
            let batch = self.batches.blocking_recv().expect("the stream is followed");
            for problem in batch.problems.list() {
                assert!(!problem.reason.is_empty(), "a problem says what it is");
            }
            for update in batch.updates {
                match update {
                    Update::Apply(resource) => {
                        assert!(!matches!(&resource, Resource::BadPolicy(policy) if policy.key != *resource.key()));
                        self.in_force.insert(resource.key().clone());
                    }
                    Update::Delete(key) => assert!(self.in_force.remove(&key), "{key} was in force"),
                    Update::ResyncBegins | Update::InSync | Update::Barrier(_) => {}
                    Update::Lost(reason) => panic!("the connection is lost: {reason}"),
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut followed = FOLLOWED.lock().expect("the input before ended well");
    followed.inputs += 1;
    let name = format!("fuzz-end-{}", followed.inputs);
    let end = ResourceKey::new(Kind::Tier, None, &name);
    let record = format!(
        r#"{{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {{"name": "{name}"}}, "spec": {{}}}}"#
    );
    followed.say(data);
    followed.say(format!("\n{{\"apply\": {record}}}\n{{\"inSync\": true}}\n").as_bytes());
    followed.until(&end, true);
    followed.say(b"{\"resync\": true}\n{\"inSync\": true}\n");
    followed.until(&end, false);
    assert!(followed.in_force.is_empty(), "left behind: {:?}", followed.in_force);
});
