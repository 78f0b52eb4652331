//! `felid test`: policy tests, by the reference evaluator, by the compiled programs in the kernel, or live between namespaces.
//!
//! In: files of cases (`case`). Each case is a small cluster (`world`) of records, and what shall be able to reach what in it
//! (`expectation`). Out: which expectations fail, and which rule decided there. All three engines get the same records through the same
//! calculation; what decided is always told by the reference.
//!
//! ```text
//! case --world--> updates --calc--> state --.--> reference
//!   '---probe---> packets ------------------+--> kernel  (planner, programs, maps; BPF_PROG_TEST_RUN)
//!                            updates -------'--> live    (a whole agent, namespaces, packets)
//! ```

mod arrival;
mod case;
mod expectation;
mod live;
mod world;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use felid_calc::{Calc, CalcOptions};
use felid_datastore::Update;
use serde::Serialize;

use crate::cli::{Engine, TestArgs};
use crate::entry::Outcome;
use crate::output::{self, Format, Progress, warn};
use crate::verdict::{self, ByKernel, Probe, State, Verdict, in_private};

use case::{Case, Entry, Expectation};
use world::World;

/// What came of everything.
#[derive(Debug, Default, Serialize)]
struct Report {
    cases: usize,
    expectations: usize,
    failed: Vec<Failure>,
    /// What could not be carried out; said on standard error too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    impossible: Vec<Impossible>,
}

/// An expectation that means nothing, or a case that could not be carried out.
#[derive(Debug, Serialize)]
struct Impossible {
    case: String,
    /// As in `Failure`; none if nothing of the case was carried out.
    step: Option<usize>,
    /// As in `Failure`; none if it is not about one expectation.
    expectation: Option<usize>,
    reason: String,
}

/// An expectation that was not met.
#[derive(Debug, Serialize)]
struct Failure {
    case: String,
    /// 0 = the case's own `expect`, n = `steps[n - 1]`.
    step: usize,
    /// Position in `expect`, from 0.
    expectation: usize,
    got: bool,
    /// By the reference.
    decided_by: String,
    #[serde(skip)]
    text: String,
}

/// What a step changed.
struct Change<'a> {
    /// Records, in order.
    updates: &'a [Update],
    /// All that holds now.
    state: &'a State,
    world: &'a World,
}

/// Something that can say what becomes of packets.
trait Runner {
    /// Brings what changed in force.
    fn change(&mut self, change: &Change<'_>) -> anyhow::Result<()>;
    /// Why a probe cannot be sent, if so.
    fn can_probe(&self, _probe: &Probe) -> anyhow::Result<()> {
        Ok(())
    }
    /// Which packets get through: each is the first of a new flow.
    fn probe(&mut self, probes: &[Probe], state: &State) -> anyhow::Result<Vec<bool>>;
}

struct ByReference;

impl Runner for ByReference {
    fn change(&mut self, _change: &Change<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn probe(&mut self, probes: &[Probe], state: &State) -> anyhow::Result<Vec<bool>> {
        Ok(probes
            .iter()
            .map(|probe| verdict::judge(state, probe).allowed)
            .collect())
    }
}

impl Runner for ByKernel {
    fn change(&mut self, change: &Change<'_>) -> anyhow::Result<()> {
        self.set(change.state.clone())
    }

    fn probe(&mut self, probes: &[Probe], _state: &State) -> anyhow::Result<Vec<bool>> {
        let probes = probes.iter().enumerate();
        probes
            .map(|(n, probe)| self.judge(probe, n).with_context(|| format!("{probe:?}")))
            .collect()
    }
}

/// Runs every case of every file.
pub fn test(args: &TestArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    let mut cases = Vec::new();
    for path in &args.files {
        let name = path.display().to_string();
        let text = read(path).with_context(|| name.clone())?;
        let found = case::read(&name, &text)?;
        for case in found.iter().filter_map(|entry| entry.case.as_ref().ok()) {
            for key in case.unknown_keys() {
                warn(&format!("{name}: case {:?}: unknown key {key}", case.name));
            }
        }
        cases.extend(found);
    }
    let report = match args.engine {
        Engine::Reference => run(&cases, &mut ByReference)?,
        Engine::Kernel => in_private(|bpffs| run(&cases, &mut ByKernel::new(bpffs)?))?,
        Engine::Live => in_private(|_| run(&cases, &mut live::Live::new()?))?,
    };
    if json {
        output::json_line(out, &report)?;
    } else {
        show(&report, out)?;
    }
    Ok(if report.failed.is_empty() && report.impossible.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        return Ok(std::io::read_to_string(std::io::stdin().lock())?);
    }
    Ok(std::fs::read_to_string(path)?)
}

fn run(cases: &[Entry], runner: &mut dyn Runner) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut progress = Progress::steps(cases.len(), "running cases");
    // What takes away the state that cases before have left.
    let mut left = Vec::new();
    for entry in cases {
        report.cases += 1;
        let case = match &entry.case {
            Ok(case) => case,
            Err(error) => {
                report.is_impossible(&entry.name, None, error);
                progress.step();
                continue;
            }
        };
        let mut world = World::default();
        let mut step = None;
        let result = world
            .begin(case)
            .and_then(|()| run_case(case, &mut world, runner, &left, &mut step, &mut report));
        match result {
            Ok(()) => left.clear(),
            // The others can be carried out all the same.
            Err(error) => report.is_impossible(&case.name, step, &error),
        }
        left.extend(world.clear());
        progress.step();
    }
    progress.finish();
    Ok(report)
}

impl Report {
    fn is_impossible(&mut self, case: &str, step: Option<usize>, error: &anyhow::Error) {
        output::error(&format!("case {case:?} cannot be carried out: {error:#}"));
        self.impossible.push(Impossible {
            case: case.to_owned(),
            step,
            expectation: None,
            reason: format!("{error:#}"),
        });
    }
}

/// Runs a case, of which the world holds the beginning. `at` tells the step that is carried out.
fn run_case(
    case: &Case,
    world: &mut World,
    runner: &mut dyn Runner,
    left: &[Update],
    at: &mut Option<usize>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut calc = Calc::new(CalcOptions {
        node: world::NODE.to_owned(),
    });
    let mut state = State::default();
    let mut before = left.to_vec();
    for (number, step, expect) in case.rounds() {
        *at = Some(number);
        let place = || {
            if number == 0 {
                "the case itself".to_owned()
            } else {
                format!("step {number}")
            }
        };
        if let Some(step) = step {
            world.step(step).with_context(place)?;
        }
        let updates = world.take_updates();
        for note in world.take_notes() {
            warn(&format!("case {:?}: {}: {note}", case.name, place()));
        }
        for update in &updates {
            match update {
                Update::Apply(resource) => calc.apply(resource.clone()),
                Update::Delete(key) => calc.delete(key),
                Update::InSync => {}
            }
        }
        state.take(&calc.flush());
        before.extend(updates);
        let change = Change {
            updates: &std::mem::take(&mut before),
            state: &state,
            world,
        };
        runner.change(&change).with_context(place)?;
        report.expectations += expect.len();
        let (mut asked, mut probes) = (Vec::new(), Vec::new());
        for (n, expectation) in expect.iter().enumerate() {
            let probe = expectation::probe(expectation, n, world);
            match probe.and_then(|probe| runner.can_probe(&probe).map(|()| probe)) {
                Ok(probe) => {
                    asked.push((n, expectation));
                    probes.push(probe);
                }
                // The others can be asked all the same.
                Err(error) => {
                    let reason = format!("{error:#}");
                    let name = &case.name;
                    output::error(&format!(
                        "case {name:?}: {}: expect[{n}] is impossible: {reason}",
                        place()
                    ));
                    report.impossible.push(Impossible {
                        case: name.clone(),
                        step: Some(number),
                        expectation: Some(n),
                        reason,
                    });
                }
            }
        }
        let got = runner.probe(&probes, &state).with_context(place)?;
        for (((n, expectation), probe), got) in asked.into_iter().zip(&probes).zip(got) {
            if got != expectation.allowed {
                let verdict = verdict::judge(&state, probe);
                report.failed.push(failure(case, number, n, expectation, got, &verdict));
            }
        }
    }
    Ok(())
}

fn failure(
    case: &Case,
    step: usize,
    number: usize,
    expectation: &Expectation,
    got: bool,
    verdict: &Verdict,
) -> Failure {
    let Expectation { from, to, protocol, .. } = expectation;
    let mut what = format!("{from} -> {to} {protocol}");
    if let Some(port) = expectation.port.filter(|_| protocol.has_ports()) {
        what.push_str(&format!(" port {port}"));
    }
    if let Some(port) = expectation.src_port {
        what.push_str(&format!(" from port {port}"));
    }
    if let Some(kind) = expectation.icmp_type {
        what.push_str(&format!(" type {kind} code {}", expectation.icmp_code.unwrap_or(0)));
    }
    let verb = |allowed: bool| if allowed { "allowed" } else { "denied" };
    let differs = if got == verdict.allowed {
        String::new()
    } else {
        format!("; THE REFERENCE SAYS {}", verb(verdict.allowed))
    };
    let place = if step == 0 {
        String::new()
    } else {
        format!("steps[{}].", step - 1)
    };
    let (wanted, got_text, why) = (verb(expectation.allowed), verb(got), verdict.describe());
    let family = expectation.ip.name();
    Failure {
        case: case.name.clone(),
        step,
        expectation: number,
        got,
        decided_by: verdict.decided_by(),
        text: format!(
            "{}: {place}expect[{number}]: {what} ({family}): expected {wanted}, got {got_text}: {why}{differs}",
            case.name
        ),
    }
}

fn show(report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    for failure in &report.failed {
        writeln!(out, "{}", output::printable(&failure.text))?;
    }
    let impossible = match report.impossible.len() {
        0 => String::new(),
        number => format!(", {number} impossible"),
    };
    writeln!(
        out,
        "{}, {}, {} failed{impossible}",
        output::count(report.cases, "case", "cases"),
        output::count(report.expectations, "expectation", "expectations"),
        report.failed.len()
    )?;
    Ok(())
}
