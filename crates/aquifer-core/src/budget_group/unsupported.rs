//! Budget groups where there are none: everything compiles, and nothing can be joined.

use super::{BudgetGroupDesc, GroupStatus, Lease};
use aquifer_backend::{Error, ErrorKind, PressureSource};
use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

/// This process's membership of a group of processes that share one memory budget: not on this system.
#[derive(Debug, Clone)]
pub struct BudgetGroup(Infallible);

fn unsupported<T>(operation: &'static str) -> Result<T, Error> {
    let message = "budget groups need a Unix system's record locks; give each process a budget of its own";
    Err(Error::new(ErrorKind::Unsupported, operation, message))
}

impl BudgetGroup {
    /// Joins a group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`].
    pub fn join(path: impl AsRef<Path>, desc: &BudgetGroupDesc) -> Result<Self, Error> {
        let _ = (path, desc);
        unsupported("BudgetGroup::join")
    }

    /// Joins a group that is there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let _ = path;
        unsupported("BudgetGroup::open")
    }

    /// What a group's members have, without joining it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`].
    pub fn look(path: impl AsRef<Path>) -> Result<GroupStatus, Error> {
        let _ = path;
        unsupported("BudgetGroup::look")
    }

    /// The most bytes that all members together may have reserved.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        match self.0 {}
    }

    /// The most that one member may have.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        match self.0 {}
    }

    /// The group's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self.0 {}
    }

    /// What each member has and waits for now.
    ///
    /// # Errors
    ///
    /// None: there is no group.
    pub fn status(&self) -> Result<GroupStatus, Error> {
        match self.0 {}
    }

    /// Leases bytes.
    ///
    /// # Errors
    ///
    /// None: there is no group.
    pub fn lease(&self, _bytes: u64, _timeout: Duration) -> Result<Lease, Error> {
        match self.0 {}
    }

    /// A source for a pressure monitor.
    #[must_use]
    pub fn pressure_source(&self) -> Box<dyn PressureSource> {
        match self.0 {}
    }

    pub(crate) fn charge(&self, _bytes: u64) -> bool {
        match self.0 {}
    }

    pub(crate) fn tell(&self) {
        match self.0 {}
    }

    pub(crate) fn refund(&self, _bytes: u64) {
        match self.0 {}
    }

    pub(crate) fn check(&self, _operation: &'static str) -> Result<(), Error> {
        match self.0 {}
    }

    pub(crate) fn could_have(&self, _bytes: u64) -> bool {
        match self.0 {}
    }

    pub(crate) fn wait_for(&self, _bytes: u64) -> GroupWait {
        match self.0 {}
    }

    pub(crate) fn shortage(&self, _bytes: u64) -> String {
        match self.0 {}
    }
}

/// What an explicit lease keeps.
#[derive(Debug)]
pub(super) struct LeaseHold(Infallible);

impl LeaseHold {
    pub(super) fn give_back(&self, _bytes: u64) {
        match self.0 {}
    }
}

/// An allocation's place in the group's line.
#[derive(Debug)]
pub(crate) struct GroupWait(Infallible);

impl GroupWait {
    pub(crate) fn remind(&mut self) {
        match self.0 {}
    }

    pub(crate) fn wait_until(&mut self, _deadline: Instant) -> bool {
        match self.0 {}
    }
}
