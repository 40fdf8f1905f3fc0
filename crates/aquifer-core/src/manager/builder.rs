//! Setting a manager up in code.

use super::MemoryManager;
use super::config::{Config, Tracking, ZeroPolicy};
use super::pinned::PinnedConfig;
use crate::budget_group::BudgetGroup;
use crate::clock::Clock;
use crate::pool::BucketLayout;
use crate::pressure::PressureConfig;
use aquifer_backend::{Backend, DefaultDevice, Error};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

/// Sets a manager up, from [`MemoryManager::builder`]. Each method is one setting of [`Config`], where it is explained.
///
/// The environment has the last word, so that a program can be tuned without building it anew: `build` and `build_on`
/// apply [`Config::with_environment`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct MemoryManagerBuilder<B> {
    config: Config,
    backend: PhantomData<fn() -> B>,
}

impl<B: Backend> MemoryManagerBuilder<B> {
    pub(super) fn new() -> Self {
        Self { config: Config::default(), backend: PhantomData }
    }

    /// [`Config::layout`].
    pub fn layout(mut self, layout: BucketLayout) -> Self {
        self.config.layout = layout;
        self
    }

    /// [`Config::budget_bytes`].
    pub fn budget_bytes(mut self, bytes: u64) -> Self {
        self.config.budget_bytes = Some(bytes);
        self
    }

    /// [`Config::budget_group`].
    pub fn budget_group(mut self, group: &BudgetGroup) -> Self {
        self.config.budget_group = Some(group.clone());
        self
    }

    /// [`Config::zero_policy`].
    pub fn zero_policy(mut self, policy: ZeroPolicy) -> Self {
        self.config.zero_policy = policy;
        self
    }

    /// [`Config::tracking`].
    pub fn tracking(mut self, tracking: Tracking) -> Self {
        self.config.tracking = tracking;
        self
    }

    /// [`Config::idle_decay`].
    pub fn idle_decay(mut self, decay: Duration) -> Self {
        self.config.idle_decay = Some(decay);
        self
    }

    /// [`Config::purgeable_after`].
    pub fn purgeable_after(mut self, age: Duration) -> Self {
        self.config.purgeable_after = Some(age);
        self
    }

    /// [`Config::in_flight_wait`].
    pub fn in_flight_wait(mut self, wait: Duration) -> Self {
        self.config.in_flight_wait = wait;
        self
    }

    /// [`Config::reaper`].
    pub fn reaper(mut self, is_on: bool) -> Self {
        self.config.reaper = is_on;
        self
    }

    /// [`Config::record_to`].
    pub fn record_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.record_to = Some(path.into());
        self
    }

    /// [`Config::pinned`].
    pub fn pinned(mut self, limits: PinnedConfig) -> Self {
        self.config.pinned = limits;
        self
    }

    /// [`Config::pressure`].
    pub fn pressure(mut self, pressure: PressureConfig) -> Self {
        self.config.pressure = pressure;
        self
    }

    /// [`Config::clock`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.config.clock = clock;
        self
    }

    /// The manager, on the backend's default device.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::new`].
    pub fn build(self) -> Result<MemoryManager<B>, Error>
    where
        B: DefaultDevice,
    {
        self.build_on(B::default_device()?)
    }

    /// The manager, on a device of the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::new`].
    pub fn build_on(self, backend: B) -> Result<MemoryManager<B>, Error> {
        MemoryManager::with_config(backend, self.config.with_environment()?)
    }
}
