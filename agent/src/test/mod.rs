//! `felid test`: policy tests, by the reference evaluator, by the compiled programs in the kernel,
//! or live between namespaces.
//!
//! In: files of cases (`case`). Each case is a small cluster (`world`) of records, and what shall
//! be able to reach what in it (`expectation`). Out: which expectations fail, and which rule
//! decided there. All three engines get the same records through the same calculation; what decided
//! is always told by the reference.
//!
//! ```text
//! case --world--> updates --calc--> state --.--> reference
//!   |---probe---> packets ------------------+--> kernel  (planner, programs, maps, test runs)
//!   '---world--> JSON lines ----------------'--> live    (a whole agent, namespaces, packets)
//! ```

mod arrival;
mod case;
mod expectation;
mod live;
mod node;
mod pod;
mod world;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use felid_calc::{Calc, CalcOptions};
use serde::Serialize;

use crate::cli::{Engine, TestArgs};
use crate::outcome::Outcome;
use crate::output::{self, Format, Progress, warn};
use crate::verdict::{self, ByKernel, FirstPacket, PolicyState, Verdict, in_private};

use case::{Case, Entry, Expectation};
use world::{RecordChange, Update, World};

/// What came of everything.
#[derive(Debug, Default, Serialize)]
struct TestReport {
    cases: usize,
    expectations: usize,
    failed: Vec<UnmetExpectation>,
    /// What could not be carried out; said on standard error too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    impossible: Vec<Impossible>,
}

/// An expectation that means nothing, or a case that could not be carried out.
#[derive(Debug, Serialize)]
struct Impossible {
    case: String,
    /// As in `UnmetExpectation`; none if nothing of the case was carried out.
    step: Option<usize>,
    /// As in `UnmetExpectation`; none if it is not about one expectation.
    expectation: Option<usize>,
    reason: String,
}

/// An expectation that was not met.
#[derive(Debug, Serialize)]
struct UnmetExpectation {
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
struct StepChange<'a> {
    /// Nothing of what was in force before holds any more: a case begins.
    begins: bool,
    /// The records that changed, in order.
    records: &'a [RecordChange],
    /// All that holds now.
    state: &'a PolicyState,
    world: &'a World,
}

/// Something that can say what becomes of packets.
trait Runner {
    /// Brings what changed in force.
    fn change(&mut self, change: &StepChange<'_>) -> anyhow::Result<()>;
    /// Why a probe cannot be sent, if so.
    fn can_probe(&self, _probe: &FirstPacket) -> anyhow::Result<()> {
        Ok(())
    }
    /// Which packets get through: each is the first of a new flow.
    fn probe(&mut self, probes: &[FirstPacket], state: &PolicyState) -> anyhow::Result<Vec<bool>>;
}

struct ByReference;

impl Runner for ByReference {
    fn change(&mut self, _change: &StepChange<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn probe(&mut self, probes: &[FirstPacket], state: &PolicyState) -> anyhow::Result<Vec<bool>> {
        Ok(probes
            .iter()
            .map(|probe| verdict::judge(state, probe).allowed)
            .collect())
    }
}

impl Runner for ByKernel {
    fn change(&mut self, change: &StepChange<'_>) -> anyhow::Result<()> {
        self.set(change.state.clone())
    }

    fn probe(&mut self, probes: &[FirstPacket], _state: &PolicyState) -> anyhow::Result<Vec<bool>> {
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
        cases.extend(case::read(&name, &text)?);
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

fn run(cases: &[Entry], runner: &mut dyn Runner) -> anyhow::Result<TestReport> {
    let mut session = Session {
        runner,
        report: TestReport::default(),
    };
    let mut progress = Progress::steps(cases.len(), "running cases");
    for entry in cases {
        session.report.cases += 1;
        match &entry.case {
            Ok(case) => session.case(case),
            Err(errors) => session.report.is_no_case(&entry.name, errors),
        }
        progress.step();
    }
    progress.finish();
    Ok(session.report)
}

/// Carries cases out, one after another, on one runner.
struct Session<'a> {
    runner: &'a mut dyn Runner,
    report: TestReport,
}

/// A case that is being carried out.
struct Running<'a> {
    case: &'a Case,
    world: World,
    calc: Calc,
    state: PolicyState,
    /// The round that is being carried out: 0 is the case itself, n is `steps[n - 1]`; none before
    /// the first.
    round: Option<usize>,
}

impl<'a> Running<'a> {
    fn new(case: &'a Case) -> Self {
        let options = CalcOptions {
            node: node::NODE.to_owned(),
        };
        Self {
            case,
            world: World::default(),
            calc: Calc::new(options),
            state: PolicyState::default(),
            round: None,
        }
    }

    /// The round as messages name it.
    fn place(&self) -> String {
        match self.round {
            None | Some(0) => "the case itself".to_owned(),
            Some(number) => format!("step {number}"),
        }
    }

    /// Brings the world's changes into the calculation.
    fn calculate(&mut self) {
        for note in self.world.take_notes() {
            warn(&format!("case {:?}: {}: {note}", self.case.name, self.place()));
        }
        for update in self.world.take_updates() {
            match update {
                Update::Apply(resource) => self.calc.apply(resource),
                Update::Delete(key) => self.calc.delete(&key),
            }
        }
        self.state.flush(&mut self.calc);
    }
}

impl Session<'_> {
    /// Carries a case out. If that is impossible, the report says so, and the next case goes on.
    fn case(&mut self, case: &Case) {
        let mut running = Running::new(case);
        if let Err(error) = self.rounds(&mut running) {
            self.report.is_impossible(&case.name, running.round, &error);
        }
    }

    fn rounds(&mut self, running: &mut Running<'_>) -> anyhow::Result<()> {
        running.world.begin(running.case)?;
        for (number, step, expect) in running.case.rounds() {
            running.round = Some(number);
            let place = running.place();
            if let Some(step) = step {
                running.world.step(step).with_context(|| place.clone())?;
            }
            running.calculate();
            let change = StepChange {
                begins: number == 0,
                records: &running.world.take_records(),
                state: &running.state,
                world: &running.world,
            };
            self.runner.change(&change).with_context(|| place.clone())?;
            self.ask(running, number, expect).with_context(|| place)?;
        }
        Ok(())
    }

    /// Asks what becomes of the packets that expectations stand for, and reports those that were
    /// not met.
    fn ask(&mut self, running: &Running<'_>, round: usize, expect: &[Expectation]) -> anyhow::Result<()> {
        self.report.expectations += expect.len();
        let (mut asked, mut probes) = (Vec::new(), Vec::new());
        for (n, expectation) in expect.iter().enumerate() {
            // No engine has anything that could send or receive a packet of a pod that has ended.
            let ended = expectation::is_with_ended(expectation, &running.world);
            let probe = expectation::probe(expectation, n, &running.world).and_then(|probe| {
                if !ended {
                    self.runner.can_probe(&probe)?;
                }
                Ok(probe)
            });
            match probe {
                Ok(probe) => {
                    if !ended {
                        probes.push(probe.clone());
                    }
                    asked.push((n, expectation, probe, ended));
                }
                // The others can be asked all the same.
                Err(error) => self.report.cannot_ask(running, n, &error),
            }
        }
        let mut got = self.runner.probe(&probes, &running.state)?.into_iter();
        for (n, expectation, probe, ended) in asked {
            let got = !ended && got.next().unwrap_or_default();
            if got != expectation.allowed {
                let verdict = verdict::judge(&running.state, &probe);
                let failure = UnmetExpectation {
                    case: running.case.name.clone(),
                    step: round,
                    expectation: n,
                    got,
                    decided_by: verdict.decided_by(),
                    text: failure_text(running, n, expectation, got, &verdict),
                };
                self.report.failed.push(failure);
            }
        }
        Ok(())
    }
}

impl TestReport {
    /// Notes something that cannot be read as a case, and says everything that is wrong with it.
    fn is_no_case(&mut self, case: &str, errors: &[String]) {
        for error in errors {
            output::error(&format!("case {case:?} cannot be carried out: {error}"));
        }
        self.impossible.push(Impossible {
            case: case.to_owned(),
            step: None,
            expectation: None,
            reason: errors.join("; "),
        });
    }

    /// Notes a case that cannot be carried out, from `step` on.
    fn is_impossible(&mut self, case: &str, step: Option<usize>, error: &anyhow::Error) {
        output::error(&format!("case {case:?} cannot be carried out: {error:#}"));
        self.impossible.push(Impossible {
            case: case.to_owned(),
            step,
            expectation: None,
            reason: format!("{error:#}"),
        });
    }

    /// Notes an expectation that means nothing where it stands.
    fn cannot_ask(&mut self, running: &Running<'_>, expectation: usize, error: &anyhow::Error) {
        let (name, place) = (&running.case.name, running.place());
        output::error(&format!(
            "case {name:?}: {place}: expect[{expectation}] is impossible: {error:#}"
        ));
        self.impossible.push(Impossible {
            case: name.clone(),
            step: running.round,
            expectation: Some(expectation),
            reason: format!("{error:#}"),
        });
    }
}

/// `CASE: [steps[N].]expect[N]: FROM -> TO ...: expected ..., got ...: WHY`.
fn failure_text(
    running: &Running<'_>,
    number: usize,
    expectation: &Expectation,
    got: bool,
    verdict: &Verdict,
) -> String {
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
    let place = match running.round {
        None | Some(0) => String::new(),
        Some(step) => format!("steps[{}].", step - 1),
    };
    let (wanted, got_text, why) = (verb(expectation.allowed), verb(got), verdict.describe());
    let (case, family) = (&running.case.name, expectation.ip.name());
    format!("{case}: {place}expect[{number}]: {what} ({family}): expected {wanted}, got {got_text}: {why}{differs}")
}

fn show(report: &TestReport, out: &mut dyn Write) -> anyhow::Result<()> {
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
