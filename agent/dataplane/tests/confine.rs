//! What a process may still do that gave up the system calls that the agent does not make. In a
//! process of its own, since there is no way back.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

fn status(field: &str) -> Vec<String> {
    let mut values = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        let text = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        values.push(line.unwrap().trim().to_owned());
    }
    values
}

#[test]
fn what_the_agent_does_not_do_cannot_be_done_any_more_by_any_thread() {
    let (wake, woken) = std::sync::mpsc::channel::<()>();
    let earlier = std::thread::spawn(move || {
        woken.recv().unwrap();
        unshare(CloneFlags::CLONE_NEWUSER)
    });
    felid_dataplane::sys::restrict_system_calls().unwrap();
    wake.send(()).unwrap();
    assert_eq!(earlier.join().unwrap(), Err(Errno::ENOSYS), "a thread that was there");

    let nothing: Option<&str> = None;
    assert_eq!(
        mount(nothing, "/", nothing, MsFlags::MS_PRIVATE, nothing),
        Err(Errno::ENOSYS)
    );
    let packets = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None);
    assert_eq!(packets.unwrap_err(), Errno::ENOSYS);
    let run = std::process::Command::new("/bin/true").status().unwrap_err();
    assert_eq!(run.raw_os_error(), Some(Errno::ENOSYS as i32), "no other process");

    // Threads, files, sockets and clocks as before.
    let sum: u32 = (0..20)
        .map(|number| std::thread::spawn(move || number))
        .map(|thread| thread.join().unwrap())
        .sum();
    assert_eq!(sum, 190);
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a"), "text").unwrap();
    std::fs::rename(home.path().join("a"), home.path().join("b")).unwrap();
    assert_eq!(std::fs::read_to_string(home.path().join("b")).unwrap(), "text");
    std::fs::copy(home.path().join("b"), home.path().join("c")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"x").unwrap();
    listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    UnixStream::pair().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1));

    assert!(status("Seccomp").iter().all(|mode| mode == "2"));
    assert!(status("NoNewPrivs").iter().all(|set| set == "1"));
}
