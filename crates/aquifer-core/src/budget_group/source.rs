//! A group as a source of pressure.

use super::group::BudgetGroup;
use aquifer_backend::{
    Error, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use std::time::Duration;

/// How often it is read where nobody wakes it.
const INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct GroupPressure {
    group: BudgetGroup,
    #[cfg(target_os = "linux")]
    bell: Option<super::bell::Bell>,
}

impl GroupPressure {
    pub(super) fn new(group: BudgetGroup) -> Self {
        Self {
            group,
            #[cfg(target_os = "linux")]
            bell: None,
        }
    }
}

/// What a member is told that has `own_bytes` of `budget_bytes`, which `members` share; `leased_bytes` is the sum of all leases,
/// `wanted_bytes` what the others wait for.
fn reading(
    budget_bytes: u64,
    members: u64,
    own_bytes: u64,
    leased_bytes: u64,
    wanted_bytes: u64,
) -> PressureReading {
    // Leases of memory that nobody wants press nobody, however many they are: as long as that is so, what is kept is of use.
    if own_bytes == 0 || wanted_bytes == 0 {
        return PressureReading::Level(PressureLevel::Normal);
    }
    let asked_bytes = leased_bytes.saturating_add(wanted_bytes);
    if own_bytes > budget_bytes / members {
        return PressureReading::Usage {
            used_bytes: asked_bytes.min(budget_bytes),
            limit_bytes: budget_bytes,
        };
    }
    let are_others_short = asked_bytes > budget_bytes;
    PressureReading::Level(if are_others_short { PressureLevel::Warning } else { PressureLevel::Normal })
}

impl PressureSource for GroupPressure {
    fn name(&self) -> String {
        format!("budget group {}", self.group.path().display())
    }

    fn start(&mut self, _notifier: &PressureNotifier) -> Result<(), Error> {
        #[cfg(target_os = "linux")]
        {
            self.bell = Some(super::bell::Bell::new(self.group.directory())?);
        }
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        #[cfg(target_os = "linux")]
        if let Some(bell) = &self.bell {
            return PressureWake::Readable(bell.descriptor());
        }
        PressureWake::Interval(INTERVAL)
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        #[cfg(target_os = "linux")]
        if let Some(bell) = &self.bell {
            bell.quieten(self.group.directory())?;
        }
        let status = self.group.status()?;
        let own_bytes =
            status.members.iter().filter(|member| member.is_own).map(|own| own.leased_bytes).sum();
        let others = status.members.iter().filter(|member| !member.is_own);
        let wanted_bytes = others.fold(0_u64, |sum, member| sum.saturating_add(member.wanted_bytes));
        let members = status.members.len() as u64;
        Ok(reading(status.budget_bytes, members, own_bytes, status.leased_bytes(), wanted_bytes))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_more_than_its_share_is_told_all() {
        let usage = |used_bytes| PressureReading::Usage { used_bytes, limit_bytes: 100 };
        assert_eq!(reading(100, 4, 26, 60, 10), usage(70));
        assert_eq!(reading(100, 4, 26, 60, u64::MAX), usage(100));
        assert_eq!(reading(100, 4, 99, 100, 0), PressureReading::Level(PressureLevel::Normal));
        let level = PressureReading::Level;
        assert_eq!(reading(100, 4, 25, 60, 40), level(PressureLevel::Normal));
        assert_eq!(reading(100, 4, 25, 60, 41), level(PressureLevel::Warning));
        assert_eq!(reading(100, 4, 25, 100, 0), level(PressureLevel::Normal));
        assert_eq!(reading(100, 4, 0, 100, 50), level(PressureLevel::Normal));
    }
}
