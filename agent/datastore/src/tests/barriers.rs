//! Who asks is told when everything has been told that was there when it asked.

use std::time::Duration;

use super::{Watched, tier};
use crate::Update;

impl Watched {
    /// Asks for a barrier and waits until it is passed.
    fn pass(&mut self, number: u64) {
        self.ask(number);
        self.until_passed(number);
    }

    pub(super) fn ask(&self, number: u64) {
        self.store.as_ref().unwrap().0.control().barrier(number);
    }

    fn until_passed(&mut self, number: u64) {
        self.until("the barrier is passed", |watched| watched.has_passed(number));
    }

    fn has_passed(&self, number: u64) -> bool {
        self.said.contains(&Update::Barrier(number))
    }
}

#[test]
fn what_was_written_before_is_told_before() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1000))]);
    for number in 0..50_u32 {
        match number % 3 {
            0 => watched.write("a.yaml", &tier("t", number)),
            1 => watched.write_whole("a.yaml", &tier("t", number)),
            _ => {
                watched.remove("a.yaml");
                watched.write_whole("a.yaml", &tier("t", number));
            }
        }
        watched.pass(number.into());
        assert_eq!(watched.order("t"), Some(number));
    }
}

#[test]
fn what_was_removed_before_is_gone_before() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1)), ("deep/b.yaml", &tier("u", 1))]);
    watched.remove("a.yaml");
    watched.pass(1);
    assert_eq!(watched.order("t"), None);
    std::fs::remove_dir_all(watched.path("deep")).unwrap();
    watched.pass(2);
    assert_eq!(watched.order("u"), None);
}

#[test]
fn new_directories_are_read_before() {
    let mut watched = Watched::with(&[]);
    for number in 0..10_u32 {
        watched.write(&format!("d{number}/deep/a.yaml"), &tier(&format!("t{number}"), number));
        watched.pass(number.into());
        assert_eq!(watched.order(&format!("t{number}")), Some(number));
    }
}

#[test]
fn nothing_to_tell_is_told_at_once() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1))]);
    (0..20).for_each(|number| watched.ask(number));
    (0..20).for_each(|number| watched.until_passed(number));
}

#[test]
fn a_directory_that_cannot_be_seen_is_waited_for() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1))]);
    let aside = watched.home.path().join("aside");
    std::fs::rename(watched.root(), &aside).unwrap();
    watched.ask(1);
    watched.linger(Duration::from_millis(300));
    assert!(!watched.has_passed(1));
    std::fs::write(aside.join("a.yaml"), tier("t", 2)).unwrap();
    std::fs::rename(&aside, watched.root()).unwrap();
    watched.until_passed(1);
    assert_eq!(watched.order("t"), Some(2));
}
