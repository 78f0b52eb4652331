//! The programs that are built into the agent: loaded against the pinned maps, and found again by a
//! hash of the object after a restart, so that only a new version pays for the verifier (a second
//! of CPU time).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use felid_common::static_programs;
use felid_compile::program::Insn;
use sha2::{Digest as _, Sha256};

use super::maps::NAMES;
use super::programs::set_program;
use crate::error::{KernelError, Result};
use crate::sys::{self, RawMap};

/// Programs that belong into `static_programs`, and where. What others tail-call comes first.
const STATIC_PROGRAMS: [(&str, u32); 8] = [
    ("translate", static_programs::TRANSLATE),
    ("policy_return", static_programs::POLICY_RETURN),
    ("related", static_programs::RELATED),
    ("neighbour", static_programs::NEIGHBOUR),
    ("from_workload_slow", static_programs::FROM_WORKLOAD_SLOW),
    ("to_workload_slow", static_programs::TO_WORKLOAD_SLOW),
    ("from_workload", static_programs::FROM_WORKLOAD),
    ("to_workload", static_programs::TO_WORKLOAD),
];

/// A program that is loaded when it is first asked for; the error is for people.
pub(crate) type Lazy = LazyLock<Result<OwnedFd, String>, Box<dyn FnOnce() -> Result<OwnedFd, String> + Send>>;

/// Programs that are not reached through `static_programs`.
pub(crate) struct Embedded {
    /// For interfaces without an endpoint.
    pub(crate) closed: OwnedFd,
    /// Those that look after the conntrack tables.
    pub(crate) sweepers: Sweepers,
}

/// Programs that are only ever run by hand, to look after the conntrack tables.
pub(crate) struct Sweepers {
    /// Tells jiffies.
    pub(crate) clock: OwnedFd,
    /// Ends expired IPv4 flows.
    pub(crate) sweep_v4: Lazy,
    /// Ends expired IPv6 flows.
    pub(crate) sweep_v6: Lazy,
    /// Corrects what is counted for an endpoint.
    pub(crate) recount: Lazy,
}

/// Where programs are found again: `<directory>/<hash of the object>/<name>`.
#[derive(Clone)]
struct Cache {
    object: &'static [u8],
    maps: PathBuf,
    directory: PathBuf,
}

/// Makes `static_programs` hold this version's programs, one after the other in place: a running
/// kernel never lacks one.
pub(crate) fn install(object: &'static [u8], maps: &Path, directory: &Path, array: &RawMap) -> Result<Embedded> {
    let hash: String = Sha256::digest(object)
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let cache = Cache {
        object,
        maps: maps.to_owned(),
        directory: directory.join(&hash),
    };
    fs::create_dir_all(&cache.directory).map_err(KernelError::file("create", &cache.directory))?;
    let mut names: Vec<&'static str> = STATIC_PROGRAMS.map(|(name, _)| name).to_vec();
    names.extend(["closed", "clock"]);
    let mut programs = cache.programs(&names)?;
    let mut take = |name: &'static str| programs.remove(name).ok_or_else(|| failed(name)("not in the object"));
    for (name, index) in STATIC_PROGRAMS {
        let program = take(name)?;
        let wanted = sys::program_id(program.as_fd()).map_err(KernelError::call("ask for a program's id"))?;
        let present = array
            .lookup(&index.to_ne_bytes())
            .map_err(KernelError::call("read the map static_programs"))?;
        // Setting an element rewrites every program that jumps to it.
        if present.as_deref() != Some(&wanted.to_ne_bytes()) {
            set_program(array, index, program.as_fd())?;
        }
    }
    let embedded = Embedded {
        closed: take("closed")?,
        sweepers: Sweepers {
            clock: take("clock")?,
            sweep_v4: cache.lazy("sweep_v4"),
            sweep_v6: cache.lazy("sweep_v6"),
            recount: cache.lazy("recount"),
        },
    };
    remove_others(directory, &hash);
    Ok(embedded)
}

/// Pins of other versions: nothing finds its programs through them any more.
fn remove_others(directory: &Path, hash: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.file_name().is_some_and(|name| name != hash)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "programs of another version stay pinned");
        }
    }
}

impl Cache {
    fn lazy(&self, name: &'static str) -> Lazy {
        let cache = self.clone();
        LazyLock::new(Box::new(move || {
            let mut programs = cache.programs(&[name]).map_err(|error| error.to_string())?;
            programs
                .remove(name)
                .ok_or_else(|| format!("{name} is not in the object"))
        }))
    }

    /// Opens the pins of programs; loads and pins those that have none.
    fn programs(&self, names: &[&'static str]) -> Result<BTreeMap<&'static str, OwnedFd>> {
        let mut programs = BTreeMap::new();
        let mut missing = Vec::new();
        for &name in names {
            let path = self.directory.join(name);
            match sys::open_pin(&path) {
                Ok(program) => {
                    programs.insert(name, program);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(name),
                Err(error) => return Err(KernelError::file("open", &path)(error)),
            }
        }
        if missing.is_empty() {
            return Ok(programs);
        }
        let linked = Linked::new(self.object, &self.maps)?;
        // The verifier takes its time, and runs on as many CPUs as it is asked on.
        let loaded: Vec<(&str, Result<OwnedFd>)> = std::thread::scope(|scope| {
            let loads: Vec<_> = missing
                .iter()
                .map(|&name| (name, scope.spawn(|| linked.load(name))))
                .collect();
            loads
                .into_iter()
                .map(|(name, load)| {
                    (
                        name,
                        load.join().unwrap_or_else(|_| Err(failed(name)("the loader failed"))),
                    )
                })
                .collect()
        });
        for (name, program) in loaded {
            let program = program?;
            let path = self.directory.join(name);
            sys::pin(program.as_fd(), &path).map_err(KernelError::file("pin", &path))?;
            programs.insert(name, program);
        }
        Ok(programs)
    }
}

fn failed(name: &str) -> impl FnOnce(&str) -> KernelError {
    let name = name.to_owned();
    move |reason| KernelError::Fixed {
        name,
        reason: reason.to_owned(),
    }
}

/// The object's programs with the pinned maps' file descriptors in them.
struct Linked {
    programs: BTreeMap<String, Vec<Insn>>,
    /// Open for as long as the instructions may be loaded.
    _maps: Vec<OwnedFd>,
}

impl Linked {
    fn new(object: &[u8], pins: &Path) -> Result<Self> {
        let bad = |error: &dyn std::fmt::Display| failed("(the object)")(&error.to_string());
        let mut object = aya_obj::Object::parse(object).map_err(|error| bad(&error))?;
        let definitions = std::mem::take(&mut object.maps);
        let mut maps = Vec::new();
        for name in definitions.keys() {
            if !NAMES.contains(&name.as_str()) {
                return Err(bad(&format_args!(
                    "it defines a map {name} that the agent does not know"
                )));
            }
            let path = pins.join(name);
            maps.push(sys::open_pin(&path).map_err(KernelError::file("open", &path))?);
        }
        let text = object.functions.keys().map(|(section, _)| *section).collect();
        let bound = definitions
            .iter()
            .zip(&maps)
            .map(|((name, map), fd)| (name.as_str(), fd.as_raw_fd(), map));
        object.relocate_maps(bound, &text).map_err(|error| bad(&error))?;
        object.relocate_calls(&text).map_err(|error| bad(&error))?;
        let mut programs = BTreeMap::new();
        for (name, program) in &object.programs {
            let function = object.functions.get(&program.function_key());
            let function = function.ok_or_else(|| failed(name)("it has no instructions"))?;
            let insns = function.instructions.iter().map(|insn| Insn {
                code: insn.code,
                dst: insn.dst_reg(),
                src: insn.src_reg(),
                off: insn.off,
                imm: insn.imm,
            });
            programs.insert(name.clone(), insns.collect());
        }
        Ok(Self { programs, _maps: maps })
    }

    fn load(&self, name: &str) -> Result<OwnedFd> {
        let insns = self
            .programs
            .get(name)
            .ok_or_else(|| failed(name)("not in the object"))?;
        sys::load_classifier(insns, name).map_err(|error| failed(name)(&format!("{}\n{}", error.error, error.log)))
    }
}

/// The program of a [`Lazy`].
pub(crate) fn force(lazy: &Lazy) -> Result<BorrowedFd<'_>> {
    match &**lazy {
        Ok(program) => Ok(program.as_fd()),
        Err(reason) => Err(KernelError::Fixed {
            name: "the sweeper".to_owned(),
            reason: reason.clone(),
        }),
    }
}
