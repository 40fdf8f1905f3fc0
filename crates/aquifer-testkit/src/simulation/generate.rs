//! Programs from seeds.

use super::program::{Action, HookKind, MappingSetup, Program, Setup, Step};
use crate::Random;
use aquifer_sim::Call;

/// How many threads a program runs on.
pub(super) const THREADS: u8 = 4;

/// The largest size asked for, in bytes.
const BYTES_MAX: u64 = 64 << 20;

impl Program {
    /// The program of a seed, with so many steps.
    #[must_use]
    pub fn generate(seed: u64, step_count: usize) -> Self {
        let mut generator = Generator { random: Random::new(seed), moods: Moods::default() };
        let mut setup = generator.setup();
        setup.mapping = mapping(&setup);
        let steps = generator.steps(step_count);
        Self { setup, steps }
    }
}

/// Most devices map memory, and most of them without a limit that matters. Drawn apart, from the device's seed.
fn mapping(setup: &Setup) -> Option<MappingSetup> {
    let mut random = Random::new(setup.device_seed);
    if random.below(4) == 0 {
        return None;
    }
    Some(MappingSetup {
        page_log2: [16, 21, 21, 21, 25][random.below(5) as usize].max(setup.granularity_log2),
        mapping_count_max: [1, 8, 50, 300, 1 << 32, 1 << 32, 1 << 32, 1 << 32][random.below(8) as usize],
        address_mib: [8, 100, 3000, 1 << 27, 1 << 27, 1 << 27][random.below(6) as usize],
    })
}

/// What a program is inclined to, so that programs differ.
#[derive(Debug, Default)]
struct Moods {
    bytes_log2_min: u64,
    bytes_log2_max: u64,
    thread_count: u64,
    run_length: u64,
    has_faults: bool,
    has_hangs: bool,
    has_pressure: bool,
    is_watched: bool,
    many_queues: bool,
    frees_per_mille: u64,
    home_per_mille: u64,
    zeroed_per_mille: u64,
}

struct Generator {
    random: Random,
    moods: Moods,
}

impl Generator {
    fn chance(&mut self, per_mille: u64) -> bool {
        self.random.below(1000) < per_mille
    }

    fn small(&mut self) -> u8 {
        self.random.below(256) as u8
    }

    fn wide(&mut self) -> u16 {
        self.random.below(1 << 16) as u16
    }

    fn setup(&mut self) -> Setup {
        let low = self.random.below(15);
        let high = low + 2 + self.random.below(13);
        self.moods = Moods {
            bytes_log2_min: 8 + low,
            bytes_log2_max: (8 + high).min(26),
            thread_count: [1, 2, 3, u64::from(THREADS)][self.random.below(4) as usize],
            run_length: [2, 6, 20, 60][self.random.below(4) as usize],
            has_faults: self.chance(250),
            has_hangs: self.chance(120),
            has_pressure: self.chance(200),
            is_watched: self.chance(300),
            many_queues: self.chance(20),
            frees_per_mille: 900 + self.random.below(150),
            home_per_mille: 300 + self.random.below(700),
            zeroed_per_mille: [0, 0, 50, 300][self.random.below(4) as usize],
        };
        Setup {
            device_seed: self.random.draw(),
            budget_mib: 16 << self.random.below(6),
            is_late: self.chance(700),
            has_long_kernels: self.chance(500),
            has_costs: self.chance(700),
            releases_ranges: self.chance(300),
            zeroes_blocks: self.chance(500),
            clears_always: self.chance(50),
            granularity_log2: [12, 16, 21, 21][self.random.below(4) as usize],
            sub_classes: [1, 4, 8, 8, 32][self.random.below(5) as usize],
            idle_decay_ms: if self.chance(300) { Some(self.random.below(200)) } else { None },
            has_purgeable: self.chance(600),
            purgeable_after_ms: if self.chance(200) { Some(self.random.below(100)) } else { None },
            // While a queue hangs, every allocation that finds nothing looks again each 10 ms of that.
            in_flight_wait_ms: if self.moods.has_hangs || self.chance(200) {
                self.random.below(100)
            } else {
                20_000
            },
            mapping: None,
            has_monitor: self.moods.is_watched,
            outlives_manager: self.chance(300),
        }
    }

    fn steps(&mut self, count: usize) -> Vec<Step> {
        let mut thread = 0;
        let mut steps = Vec::with_capacity(count);
        for _ in 0..if self.moods.many_queues { 40 + self.random.below(30) } else { 1 + self.random.below(4) }
        {
            steps.push(Step { thread, action: Action::NewQueue });
        }
        while steps.len() < count {
            if self.random.below(self.moods.run_length) == 0 {
                thread = self.random.below(self.moods.thread_count) as u8;
            }
            let action = self.action();
            steps.push(Step { thread, action });
        }
        steps.truncate(count);
        steps
    }

    fn bytes(&mut self) -> u64 {
        let Moods { bytes_log2_min: low, bytes_log2_max: high, .. } = self.moods;
        let bit = low + self.random.below(high - low + 1);
        let power = 1_u64 << bit;
        let bytes = match self.random.below(8) {
            0 => power,
            1 => power + self.random.below(513),
            2 => power - 1,
            _ => power + self.random.below(power),
        };
        bytes.min(BYTES_MAX)
    }

    fn queue(&mut self) -> u8 {
        self.small()
    }

    fn home(&mut self) -> u8 {
        if self.chance(self.moods.home_per_mille) { self.random.below(255) as u8 } else { 255 }
    }

    fn lasts_us(&mut self) -> Option<u32> {
        match self.random.below(6) {
            0 => Some(0),
            1 => Some(self.random.size(50_000) as u32),
            _ => None,
        }
    }

    fn action(&mut self) -> Action {
        match self.random.below(1000) {
            0..230 => {
                let alignment_log2 = if self.chance(80) { self.random.below(13) as u8 } else { 8 };
                Action::Allocate {
                    queue: self.home(),
                    bytes: self.bytes(),
                    alignment_log2,
                    tag: self.small(),
                    is_zeroed: self.chance(self.moods.zeroed_per_mille),
                }
            }
            230..430 => {
                if self.chance(self.moods.frees_per_mille) {
                    Action::Free { buffer: self.wide() }
                } else {
                    Action::FreeMany { buffer: self.wide(), count: self.small() }
                }
            }
            430..560 => Action::HomeKernel { buffer: self.wide(), lasts_us: self.lasts_us() },
            560..660 => {
                let second = if self.chance(300) { Some(self.wide()) } else { None };
                Action::Kernel { queue: self.queue(), first: self.wide(), second, lasts_us: self.lasts_us() }
            }
            660..670 => Action::Record { queue: self.queue(), buffer: self.wide() },
            670..740 => self.operation(),
            740..800 => self.look(),
            800..830 => self.request(),
            830..850 => self.host(),
            850..890 => self.queues(),
            890..920 => self.give_back(),
            920..930 if self.moods.is_watched && self.chance(700) => self.pressure(),
            920..930 => Action::Settle,
            930..945 => self.reclaim(),
            945..965 => Action::Advance { us: self.random.size(200_000) as u32 },
            965..970 => Action::RunAll,
            970..985 => self.trouble(),
            _ => Action::Check,
        }
    }

    fn operation(&mut self) -> Action {
        let queue = self.queue();
        match self.random.below(4) {
            0 => Action::Fill { queue, buffer: self.wide() },
            1 => Action::Copy { queue, from: self.wide(), to: self.wide() },
            2 => Action::Upload { queue, buffer: self.wide(), bytes: self.wide() },
            _ => Action::Download { queue, buffer: self.wide(), bytes: self.wide() },
        }
    }

    /// After an operation.
    fn look(&mut self) -> Action {
        let operation = self.small();
        match self.random.below(8) {
            0..2 => Action::WaitOperation { operation },
            2..5 => Action::PollOperation { operation },
            5 => Action::Detach { operation },
            6 => Action::CancelOperation { operation },
            _ => Action::PollWoken,
        }
    }

    fn request(&mut self) -> Action {
        let request = self.small();
        match self.random.below(16) {
            0..5 => {
                let timeout_ms = if self.chance(500) { Some(self.random.size(2000) as u16) } else { None };
                let token = if self.chance(300) { Some(self.small()) } else { None };
                Action::AllocateAsync { queue: self.home(), bytes: self.bytes(), timeout_ms, token }
            }
            5..9 => Action::PollRequest { request },
            9..13 => Action::PollWoken,
            13 => Action::DropRequest { request },
            14 => Action::ForgetRequest { request },
            _ => Action::CancelToken { token: request },
        }
    }

    fn host(&mut self) -> Action {
        if self.chance(500) {
            Action::HostFill { buffer: self.wide() }
        } else {
            Action::HostCopy { from: self.wide(), to: self.wide() }
        }
    }

    fn queues(&mut self) -> Action {
        let queue = self.queue();
        match self.random.below(10) {
            0..3 => Action::WaitOn { queue, other: self.queue() },
            3..5 => Action::Signal { queue },
            5..8 => Action::Synchronize { queue, timeout_us: self.random.size(100_000) as u32 },
            8 => Action::NewQueue,
            _ => Action::DropQueue { queue },
        }
    }

    /// Before memory is needed, or after.
    fn give_back(&mut self) -> Action {
        match self.random.below(13) {
            0..2 => Action::Trim,
            2..5 => Action::TrimTo { mib: self.small() },
            5..7 => Action::ReleaseIdle,
            7..9 => Action::MarkIdlePurgeable,
            9 => Action::Purge,
            _ => Action::Preallocate { bytes: self.bytes(), count: self.random.size(20) as u8 },
        }
    }

    fn pressure(&mut self) -> Action {
        if self.chance(300) { Action::Tell { level: self.small() } } else { Action::Look }
    }

    fn reclaim(&mut self) -> Action {
        match self.random.below(6) {
            0 => {
                let kinds = [
                    HookKind::FreesOne,
                    HookKind::FreesAll,
                    HookKind::Allocates,
                    HookKind::Panics,
                    HookKind::Leaves,
                ];
                let kind = kinds[self.random.below(kinds.len() as u64) as usize];
                Action::Hook { priority: self.small() as i8 % 3, kind }
            }
            1 => Action::DropHook { hook: self.small() },
            _ => Action::Shelve { buffer: self.wide() },
        }
    }

    fn trouble(&mut self) -> Action {
        let Moods { has_faults, has_hangs, has_pressure, .. } = self.moods;
        match self.random.below(10) {
            0..4 if has_faults => self.fault(),
            4..7 if has_hangs => {
                if self.chance(500) {
                    return Action::Resume;
                }
                let lost_after_ms = if self.chance(200) { Some(self.random.size(1000) as u16) } else { None };
                Action::Hang { queue: self.queue(), lost_after_ms }
            }
            7..10 if has_pressure => Action::Pressure { left_mib: self.random.below(700) as u16 },
            _ => Action::Check,
        }
    }

    fn fault(&mut self) -> Action {
        let number = self.random.size(128) as u8 - 1;
        match self.random.below(16) {
            0 if self.chance(50) => Action::LoseDevice,
            0 if self.chance(100) => Action::LoseLater { number },
            1 | 2 => Action::CommandFault { number: number % 8 },
            3 => Action::RefuseBlocks,
            4 | 5 => Action::ClearFaults,
            6 | 7 => Action::Fault { call: None, number, is_memory: self.chance(300) },
            _ => {
                let calls = [
                    Call::Create,
                    Call::Destroy,
                    Call::Release,
                    Call::Copy,
                    Call::Fill,
                    Call::CreateQueue,
                    Call::Enqueue,
                    Call::Signal,
                    Call::WaitOnQueue,
                    Call::MakePurgeable,
                    Call::MakeNonpurgeable,
                    Call::CreatePhysical,
                    Call::CreateSparse,
                    Call::Map,
                    Call::Unmap,
                ];
                let call = calls[self.random.below(calls.len() as u64) as usize];
                Action::Fault { call: Some(call), number: number % 8, is_memory: self.chance(300) }
            }
        }
    }
}
