//! Files that somebody has open for writing, where the file system tells.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use super::{Watched, bad_tier, file, tier};
use crate::{Options, Update};

/// Stands for a lease: a file is open for writing as long as `.NAME.open` stands beside it.
fn is_open(file: &File) -> io::Result<bool> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(marker(path).exists())
}

fn marker(path: PathBuf) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.open"))
}

impl Watched {
    fn asking(&self) -> Options {
        let mut options = self.options();
        options.writers = Some(is_open);
        options
    }

    fn opens(&self, name: &str) {
        std::fs::write(marker(self.path(name)), "").unwrap();
    }

    /// The writer closes the file, having written this.
    fn closes(&self, name: &str, content: &str) {
        std::fs::remove_file(marker(self.path(name))).unwrap();
        self.write(name, content);
    }
}

fn started(watched: &mut Watched) {
    watched.start_with(watched.asking());
    watched.until("in sync", |watched| watched.in_sync);
}

#[test]
fn a_writer_that_pauses_is_waited_for() {
    let mut watched = Watched::new();
    watched.write("a.yaml", &file(&[tier("t", 1), tier("u", 1)]));
    started(&mut watched);
    watched.forget();
    watched.opens("a.yaml");
    watched.write("a.yaml", &tier("t", 2));
    watched.linger(Duration::from_secs(1));
    assert_eq!(watched.said, vec![], "half of it is not all of it");
    watched.until_wrong("somebody has it open for writing");
    assert_eq!((watched.order("t"), watched.order("u")), (Some(1), Some(1)));
    watched.closes("a.yaml", &file(&[tier("t", 2), tier("u", 2)]));
    watched.until_order("t", Some(2));
    watched.until_order("u", Some(2));
    assert!(watched.deleted().is_empty(), "{:?}", watched.said);
    watched.until_well();
}

#[test]
fn a_close_that_nobody_tells_is_found() {
    let mut watched = Watched::new();
    watched.write("a.yaml", &tier("t", 1));
    started(&mut watched);
    watched.opens("a.yaml");
    watched.write("a.yaml", &tier("t", 2));
    watched.linger(Duration::from_millis(300));
    assert_eq!(watched.order("t"), Some(1));
    std::fs::remove_file(marker(watched.path("a.yaml"))).unwrap();
    watched.until_order("t", Some(2));
}

#[test]
fn a_start_in_the_middle_of_a_write_keeps_the_last_good_versions() {
    let mut watched = Watched::new();
    watched.write("a.yaml", &file(&[tier("t", 1), tier("u", 1)]));
    started(&mut watched);
    watched.stop();
    watched.opens("a.yaml");
    watched.write("a.yaml", &tier("t", 2));
    watched.write("new.yaml", &tier("v", 1));
    watched.opens("new.yaml");
    watched.write("b.yaml", &bad_tier("w"));
    // Long enough to look quiet.
    std::thread::sleep(Duration::from_millis(300));
    started(&mut watched);
    assert_eq!(
        ["t", "u", "v"].map(|name| watched.order(name)),
        [Some(1), Some(1), None]
    );
    let wrong = watched.wrong();
    assert!(wrong.contains("a.yaml: somebody is writing to it"), "{wrong}");
    let errors: Vec<String> = watched.problems.errors().map(ToString::to_string).collect();
    assert!(
        errors
            .iter()
            .any(|error| error.contains("new.yaml") && error.contains("never read before")),
        "nothing stands in for it: {errors:?}"
    );
    watched.closes("a.yaml", &file(&[tier("t", 2), tier("u", 2)]));
    watched.closes("new.yaml", &tier("v", 1));
    watched.until_order("u", Some(2));
    watched.until_order("v", Some(1));
    assert!(watched.deleted().is_empty(), "{:?}", watched.said);
    watched.until("only b.yaml is wrong", |watched| watched.problems.errors().count() == 1);
}

#[test]
fn a_file_that_is_moved_into_place_while_it_is_written_is_waited_for() {
    let mut watched = Watched::new();
    watched.write("a.yaml", &file(&[tier("t", 1), tier("u", 1)]));
    started(&mut watched);
    watched.forget();
    watched.opens("a.yaml");
    watched.write_whole("a.yaml", &tier("t", 2));
    watched.linger(Duration::from_millis(500));
    assert_eq!(watched.said, vec![]);
    watched.closes("a.yaml", &file(&[tier("t", 2), tier("u", 2)]));
    watched.until_order("u", Some(2));
}

/// Some file systems know no leases, and files of others need a right to ask.
#[test]
fn where_it_cannot_be_asked_that_is_said() {
    let mut watched = Watched::new();
    watched.write("a.yaml", &tier("t", 1));
    let mut options = watched.options();
    options.writers = Some(|_| Err(io::Error::from(io::ErrorKind::InvalidInput)));
    watched.start_with(options);
    watched.until_order("t", Some(1));
    watched.until_wrong("whether somebody still writes to a file cannot be asked here");
}

#[test]
fn a_barrier_waits_for_a_writer_that_others_wait_for() {
    let mut watched = Watched::new();
    watched.write("a.yaml", &tier("t", 1));
    started(&mut watched);
    watched.opens("a.yaml");
    watched.write("a.yaml", &tier("t", 2));
    watched.ask(1);
    watched.linger(Duration::from_millis(500));
    assert!(
        !watched.said.contains(&Update::Barrier(1)),
        "half of it is not all of it"
    );
    watched.closes("a.yaml", &tier("t", 3));
    watched.until("the barrier is passed", |watched| {
        watched.said.contains(&Update::Barrier(1))
    });
    assert_eq!(watched.order("t"), Some(3));
}
