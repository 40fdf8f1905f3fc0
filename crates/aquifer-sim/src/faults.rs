//! What is told to go wrong, and how often each call was made.

use aquifer_backend::ErrorKind;

/// A call to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`budget`](aquifer_backend::Backend::budget).
    Budget,
    /// [`create_block`](aquifer_backend::Backend::create_block).
    Create,
    /// [`destroy_block`](aquifer_backend::Backend::destroy_block), of any kind.
    Destroy,
    /// [`release_range`](aquifer_backend::Backend::release_range).
    Release,
    /// [`copy`](aquifer_backend::Backend::copy).
    Copy,
    /// [`fill`](aquifer_backend::Backend::fill).
    Fill,
    /// [`create_queue`](aquifer_backend::Backend::create_queue).
    CreateQueue,
    /// [`enqueue`](aquifer_backend::Backend::enqueue).
    Enqueue,
    /// [`signal`](aquifer_backend::Backend::signal).
    Signal,
    /// [`wait_on_queue`](aquifer_backend::Backend::wait_on_queue).
    WaitOnQueue,
    /// [`make_purgeable`](aquifer_backend::Backend::make_purgeable).
    MakePurgeable,
    /// [`make_nonpurgeable`](aquifer_backend::Backend::make_nonpurgeable).
    MakeNonpurgeable,
    /// [`create_sparse_block`](aquifer_backend::Backend::create_sparse_block).
    CreateSparse,
    /// [`create_physical_block`](aquifer_backend::Backend::create_physical_block).
    CreatePhysical,
    /// [`map`](aquifer_backend::Backend::map).
    Map,
    /// [`unmap`](aquifer_backend::Backend::unmap).
    Unmap,
    /// [`completed`](aquifer_backend::Backend::completed). Fails only with the device.
    Completed,
    /// [`wait`](aquifer_backend::Backend::wait). Fails only with the device.
    Wait,
}

impl Call {
    /// Whether the contract lets it fail for want of memory.
    fn can_lack_memory(self) -> bool {
        let creates = matches!(self, Self::Create | Self::CreateSparse | Self::CreatePhysical);
        creates || matches!(self, Self::Map | Self::MakeNonpurgeable)
    }
}

/// How many kinds of calls there are.
pub(crate) const CALL_COUNT: usize = Call::Wait as usize + 1;

/// What happens instead of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with [`ErrorKind::Driver`] and has done nothing.
    Refuse,
    /// As `Refuse`, but creating a block of any kind, mapping one, and making one nonpurgeable fail with
    /// [`ErrorKind::OutOfMemory`].
    NoMemory,
    /// The device is lost.
    LoseDevice,
}

impl Fault {
    /// Whether the contract lets a call end so.
    fn can_befall(self, call: Call) -> bool {
        self == Self::LoseDevice || !matches!(call, Call::Completed | Call::Wait)
    }

    pub(crate) fn kind(self, call: Call) -> ErrorKind {
        match self {
            Self::LoseDevice => ErrorKind::DeviceLost,
            Self::NoMemory if call.can_lack_memory() => ErrorKind::OutOfMemory,
            Self::NoMemory | Self::Refuse => ErrorKind::Driver,
        }
    }
}

/// How often it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recurrence {
    /// Once.
    Once,
    /// That time and each time after it.
    FromThenOn,
}

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPlan {
    /// Of which calls; `None`: of any that the fault can befall.
    pub call: Option<Call>,
    /// The number of the first call that it befalls, counted from 0 over those calls from the moment of planning.
    pub number: u64,
    /// Once, or from then on.
    pub recurrence: Recurrence,
    /// What happens.
    pub fault: Fault,
}

/// Something that strikes at a number.
#[derive(Debug, Clone, Copy)]
struct Fuse {
    left: u64,
    recurrence: Recurrence,
    is_spent: bool,
}

impl Fuse {
    fn new(number: u64, recurrence: Recurrence) -> Self {
        Self { left: number, recurrence, is_spent: false }
    }

    /// Counts one, and whether it is struck.
    fn burn(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        let is_struck = !self.is_spent;
        self.is_spent = self.recurrence == Recurrence::Once;
        is_struck
    }
}

/// All that is planned.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    calls: Vec<(FaultPlan, Fuse)>,
    commands: Vec<Fuse>,
}

impl Faults {
    pub(crate) fn plan(&mut self, plan: FaultPlan) {
        self.calls.push((plan, Fuse::new(plan.number, plan.recurrence)));
    }

    pub(crate) fn plan_command(&mut self, number: u64, recurrence: Recurrence) {
        self.commands.push(Fuse::new(number, recurrence));
    }

    pub(crate) fn clear(&mut self) {
        self.calls.clear();
        self.commands.clear();
    }

    /// Counts a call: what befalls it, if anything. Of several faults the one planned first.
    pub(crate) fn befall(&mut self, call: Call) -> Option<Fault> {
        let mut found = None;
        for (plan, fuse) in &mut self.calls {
            if plan.call.is_none_or(|planned| planned == call) && plan.fault.can_befall(call) && fuse.burn() {
                found = found.or(Some(plan.fault));
            }
        }
        found
    }

    /// Counts a command: whether it is to fail when it runs.
    pub(crate) fn befalls_command(&mut self) -> bool {
        let mut is_struck = false;
        for fuse in &mut self.commands {
            is_struck |= fuse.burn();
        }
        is_struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(call: Option<Call>, number: u64, recurrence: Recurrence, fault: Fault) -> FaultPlan {
        FaultPlan { call, number, recurrence, fault }
    }

    #[test]
    fn faults_strike_at_their_number_of_their_call() {
        let mut faults = Faults::default();
        faults.plan(plan(Some(Call::Create), 1, Recurrence::Once, Fault::NoMemory));
        faults.plan(plan(None, 3, Recurrence::FromThenOn, Fault::Refuse));
        assert_eq!(faults.befall(Call::Create), None);
        assert_eq!(faults.befall(Call::Wait), None, "and it does not count");
        assert_eq!(faults.befall(Call::Destroy), None);
        assert_eq!(faults.befall(Call::Create), Some(Fault::NoMemory));
        assert_eq!(faults.befall(Call::Signal), Some(Fault::Refuse));
        assert_eq!(faults.befall(Call::Create), Some(Fault::Refuse));
        assert_eq!(faults.befall(Call::Completed), None);
        faults.clear();
        assert_eq!(faults.befall(Call::Create), None);
    }

    #[test]
    fn kinds_are_those_that_the_contract_allows() {
        assert_eq!(Fault::NoMemory.kind(Call::Create), ErrorKind::OutOfMemory);
        assert_eq!(Fault::NoMemory.kind(Call::MakeNonpurgeable), ErrorKind::OutOfMemory);
        assert_eq!(Fault::NoMemory.kind(Call::Map), ErrorKind::OutOfMemory);
        assert_eq!(Fault::NoMemory.kind(Call::Unmap), ErrorKind::Driver);
        assert_eq!(Fault::NoMemory.kind(Call::Enqueue), ErrorKind::Driver);
        assert_eq!(Fault::Refuse.kind(Call::Create), ErrorKind::Driver);
        assert_eq!(Fault::LoseDevice.kind(Call::Wait), ErrorKind::DeviceLost);
    }
}
