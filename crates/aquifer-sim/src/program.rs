//! Kernels with a program: what they read and write when they end, and who sees bytes that are out of date.

use crate::check::Who;
use crate::content::Motion;
use crate::schedule::Submission;
use crate::sim::Sim;
use crate::span::Span;
use crate::violation::ViolationKind;
use crate::{Access, AccessKind, Kernel, QueueId};
use aquifer_backend::{Error, ErrorKind};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A violation to come.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) kind: ViolationKind,
    pub(crate) place: (u64, u64),
    pub(crate) message: String,
}

/// What a kernel's program sees of the device: the bytes of the kernel's declared accesses, by their device addresses.
///
/// Each range that it names must lie in one access; written may be only what is declared so, and that may be read too. Else
/// nothing is read or written, and there is a violation ([`ViolationKind::Contract`]).
#[derive(Debug)]
pub struct KernelMemory {
    who: Who,
    parts: Vec<(Access, Option<Span>)>,
    findings: Vec<Finding>,
}

impl KernelMemory {
    /// The access in which a range lies, and the offset in it.
    fn part(&self, address: u64, bytes: usize, kind: AccessKind) -> Option<(&Span, usize)> {
        self.parts.iter().find_map(|(access, span)| {
            let offset = address.checked_sub(access.address)?;
            let is_inside = offset.checked_add(bytes as u64)? <= access.bytes;
            let is_allowed = kind == AccessKind::Read || access.kind == AccessKind::Write;
            // No bit is lost: the range is in memory of the host.
            (is_inside && is_allowed).then_some((span.as_ref()?, offset as usize))
        })
    }

    fn refuse(&mut self, address: u64, bytes: usize, kind: AccessKind) {
        let does = if kind == AccessKind::Read { "reads" } else { "writes" };
        let message = format!("the program of {} {does} where its kernel has not declared it", self.who);
        let place = (address, bytes as u64);
        self.findings.push(Finding { kind: ViolationKind::Contract, place, message });
    }

    /// Copies bytes out.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) {
        match self.part(address, bytes.len(), AccessKind::Read) {
            // SAFETY: the range lies in the span; whoever launched the kernel vouches that nobody else writes it.
            Some((span, offset)) => unsafe { span.read(offset, bytes) },
            None => self.refuse(address, bytes.len(), AccessKind::Read),
        }
    }

    /// Copies bytes in.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        match self.part(address, bytes.len(), AccessKind::Write) {
            // SAFETY: the range lies in the span; whoever launched the kernel vouches that nobody else touches it.
            Some((span, offset)) => unsafe { span.write(offset, bytes) },
            None => self.refuse(address, bytes.len(), AccessKind::Write),
        }
    }

    /// Whether the device sees the bytes that ought to be there; if not, there is a violation ([`ViolationKind::StaleRead`]).
    pub fn expect(&mut self, address: u64, expected: &[u8]) -> bool {
        if self.part(address, expected.len(), AccessKind::Read).is_none() {
            self.refuse(address, expected.len(), AccessKind::Read);
            return false;
        }
        let mut found = vec![0; expected.len()];
        self.read(address, &mut found);
        let Some(words) = difference(&found, expected) else { return true };
        let (kind, place) = (ViolationKind::StaleRead, (address, expected.len() as u64));
        self.findings.push(Finding { kind, place, message: format!("{} {words}", self.who) });
        false
    }
}

/// How what was found differs from what was expected, in words; `None` if it does not.
fn difference(found: &[u8], expected: &[u8]) -> Option<String> {
    let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let Some(first) = first else {
        let (found, expected) = (found.len(), expected.len());
        return (found != expected).then(|| format!("saw {found} bytes instead of {expected}"));
    };
    let count = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
    let (found, expected) = (found[first], expected[first]);
    Some(format!(
        "saw {found:#04x} instead of {expected:#04x} at byte {first}, the first of {count} that differ"
    ))
}

/// A program that waits for its kernel's end.
pub(crate) struct Program {
    run: Box<dyn FnOnce(&mut KernelMemory) + Send>,
    parts: Vec<(Access, Option<Span>)>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// What a panic says, if it is words.
fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something")
}

impl Program {
    /// Runs it, and answers what is wrong.
    ///
    /// # Safety
    ///
    /// - Nobody else writes what the kernel reads, nor touches what it writes.
    pub(crate) unsafe fn run(self, who: Who) -> Vec<Finding> {
        let mut memory = KernelMemory { who, parts: self.parts, findings: Vec::new() };
        let run = self.run;
        // No method of a backend unwinds, and it is one of those that time passes in.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&mut memory))) {
            let message = format!("the program of {who} panicked: {}", words_of(&*panic));
            memory.findings.push(Finding { kind: ViolationKind::Contract, place: (0, 0), message });
            // What was thrown may throw again when it is dropped, and what that throws too.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
                std::mem::forget(again);
            }
        }
        memory.findings
    }
}

/// Content.
impl Sim {
    /// As [`Sim::launch`], with a program that runs when the kernel ends in virtual time, on whichever thread, and sees and
    /// changes the bytes that are there then. It must not use any [`Sim`], whose lock is held meanwhile. If it panics, that
    /// is a violation.
    ///
    /// # Errors
    ///
    /// As [`Sim::launch`]; [`ErrorKind::Unsupported`] if the device has no content.
    ///
    /// # Panics
    ///
    /// If the device has no such queue.
    ///
    /// # Safety
    ///
    /// - Until the queue's value shows that the kernel has run, or the device is lost, nobody writes through a host pointer
    ///   what the kernel's accesses read, or reads or writes so what they write. (Work of queues may: that is for the checker
    ///   to find.)
    pub unsafe fn launch_program(
        &self,
        queue: impl Into<QueueId>,
        kernel: Kernel,
        program: impl FnOnce(&mut KernelMemory) + Send + 'static,
    ) -> Result<u64, Error> {
        let operation = "launch_program";
        if !self.has_content() {
            let message = "the device was made without content";
            return Err(Error::new(ErrorKind::Unsupported, operation, message));
        }
        let mut state = self.state();
        state.enter_launch(operation)?;
        let parts = kernel.accesses.iter().map(|&access| (access, state.blocks.span_of(access)));
        let program = Program { run: Box::new(program), parts: parts.collect() };
        state.check_accesses(&kernel.accesses);
        let submission = Submission {
            duration_ns: kernel.duration_ns,
            motion: Motion::Program(program),
            ..Submission::new("kernel", &kernel.accesses)
        };
        Ok(state.schedule.submit(queue.into(), submission))
    }

    /// Whether the host has found what ought to be there; if not, there is a violation ([`ViolationKind::StaleRead`]), at the
    /// device's address if `found` lies in a block.
    pub fn expect_host(&self, found: &[u8], expected: &[u8]) -> bool {
        let Some(words) = difference(found, expected) else { return true };
        let mut state = self.state();
        let now_ns = state.schedule.now_ns();
        let address = state.blocks.address_of_host(found.as_ptr().addr(), found.len() as u64).unwrap_or(0);
        let message = format!("{} {words}", Who::HOST);
        let place = (address, found.len() as u64);
        state.schedule.checker.report(ViolationKind::StaleRead, now_ns, place, message);
        false
    }
}
