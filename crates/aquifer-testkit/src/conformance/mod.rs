//! The suite that every backend must pass.
//!
//! A case is a plain generic function: it takes what makes a backend, and panics if the backend, or the core on it,
//! does something else than the contract says. [`conformance!`](crate::conformance!) makes a test of each.
//!
//! Cases use a few hundred MiB of addresses, and touch few of them.

pub mod allocation;
pub mod basic;
pub mod exhaustion;
pub mod import;
mod owned;
pub mod pinned;
pub mod pinned_threads;
pub mod purgeable;
pub mod queue_memory;
pub mod queue_threads;
pub mod queues;
pub mod sparse;
pub mod statistics;
pub mod threads;
pub mod transfers;
pub mod unified;
pub mod unified_queues;
pub mod view_threads;
pub mod views;

use crate::{config_with_blocks, config_with_budget};
use aquifer_backend::{Backend, Capabilities, MemoryFlags, Properties};
use aquifer_core::{MemoryManager, Policy};

/// What a backend must be able to do for a case to make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the case runs on every backend.
    Nothing,
    /// The host can see memory of the first type, which buffers get.
    HostVisible,
    /// The host cannot see it.
    HostInvisible,
    /// The host can see it, and the backend promises that new blocks are zero.
    ZeroedBlocks,
    /// A block takes physical memory only where it is touched, so that a case may ask for much.
    CommitOnTouch,
    /// The host can see it, and parts of blocks can be given back.
    ReleaseRange,
    /// Idle memory can be left to the system.
    Purgeable,
    /// There are sparse blocks.
    SparseBlocks,
    /// There are sparse blocks with something behind them, and some memory that the host sees.
    MappedMemory,
    /// As [`Need::MappedMemory`], and the memory of a part of a block can be given back.
    ReleaseMapped,
    /// There are queues.
    Queues,
    /// There are queues, and no tool is told of frees.
    UnwatchedQueues,
    /// It has queues that really move bytes.
    WorkingQueues,
    /// The host's memory can be imported.
    Import,
    /// There is pinned memory, with something behind it.
    Pinned,
    /// There is unified memory, with something behind it.
    Unified,
    /// There are buffers that the host and the device both use, with something behind them.
    UnifiedBuffers,
    /// There are such buffers, and queues.
    UnifiedBuffersOnQueues,
}

impl Need {
    /// Whether a device can do it; if not, why not.
    ///
    /// # Errors
    ///
    /// The reason in words.
    pub fn is_met(self, properties: &Properties) -> Result<(), &'static str> {
        let is_visible = properties.memory_types[0].flags.contains(MemoryFlags::HOST_VISIBLE);
        let has = |capability| properties.capabilities.contains(capability);
        let has_type = |flags| properties.memory_types.iter().any(|one| one.flags.contains(flags));
        let unified = MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL;
        let (is_met, reason) = match self {
            Self::Nothing => (true, ""),
            Self::HostVisible => (is_visible, "the host cannot see the memory"),
            Self::HostInvisible => (!is_visible, "the host can see the memory"),
            Self::ZeroedBlocks => (
                is_visible && has(Capabilities::ZEROED_BLOCKS),
                "new blocks are not promised to be zero, or the host cannot see them",
            ),
            Self::ReleaseRange => (
                is_visible && has(Capabilities::RELEASE_RANGE),
                "only whole blocks can be given back, or the host cannot see them",
            ),
            Self::Purgeable => (has(Capabilities::PURGEABLE), "no memory can be purgeable"),
            Self::SparseBlocks => (has(Capabilities::SPARSE_BLOCKS), "there are no sparse blocks"),
            Self::MappedMemory => (
                has(Capabilities::SPARSE_BLOCKS)
                    && !has(Capabilities::SIMULATED)
                    && has_type(MemoryFlags::HOST_VISIBLE),
                "there are no sparse blocks, or they are simulated, or the host sees no memory",
            ),
            Self::ReleaseMapped => {
                Self::MappedMemory.is_met(properties)?;
                (has(Capabilities::RELEASE_RANGE), "only whole blocks can be given back")
            }
            Self::Queues => (has(Capabilities::QUEUES), "the device has no queues"),
            Self::UnwatchedQueues => (
                has(Capabilities::QUEUES) && !has(Capabilities::SANITIZED),
                "the device has no queues, or a tool checks what it does, for which frees wait",
            ),
            Self::WorkingQueues => (
                has(Capabilities::QUEUES) && !has(Capabilities::SIMULATED),
                "the device has no queues, or is simulated",
            ),
            Self::Import => (
                has(Capabilities::IMPORT)
                    && properties
                        .memory_types
                        .iter()
                        .any(|one| one.flags.contains(MemoryFlags::HOST_VISIBLE)),
                "memory cannot be imported",
            ),
            Self::Pinned => (
                has_type(MemoryFlags::PINNED) && !has(Capabilities::SIMULATED),
                "there is no pinned memory, or it is simulated",
            ),
            Self::Unified => (
                has_type(unified) && !has(Capabilities::SIMULATED),
                "there is no unified memory, or it is simulated",
            ),
            Self::UnifiedBuffers => (
                has_type(MemoryFlags::HOST_VISIBLE) && !has(Capabilities::SIMULATED),
                "the host sees no memory, or it is simulated",
            ),
            Self::UnifiedBuffersOnQueues => {
                Self::UnifiedBuffers.is_met(properties)?;
                return Self::WorkingQueues.is_met(properties);
            }
            Self::CommitOnTouch => {
                (has(Capabilities::COMMIT_ON_TOUCH), "blocks take physical memory at once")
            }
        };
        if is_met { Ok(()) } else { Err(reason) }
    }
}

/// Runs a case if the backend can do what it needs; else prints why it is skipped. Then runs `check`, in any case.
///
/// # Panics
///
/// If the case does, or the check.
pub fn run<B: Backend, M: Fn() -> B>(
    name: &str,
    need: Need,
    make: M,
    case: impl FnOnce(M),
    check: impl FnOnce(),
) {
    match need.is_met(make().properties()) {
        Ok(()) => case(make),
        Err(reason) => println!("{name} skipped: {reason}"),
    }
    check();
}

/// Checks that a suite is not passed by skipping all of it, and prints how many cases are skipped and why.
///
/// # Panics
///
/// If the backend can do nothing that any case needs but [`Need::HostInvisible`] ones.
pub fn assert_some_run<B: Backend>(make: impl Fn() -> B, needs: &[Need]) {
    let properties = make().properties().clone();
    let skipped = skipped(&properties, needs);
    let count = needs.len() - skipped.iter().map(|(_, _, count)| count).sum::<usize>();
    println!("{count} of {} cases run on {}", needs.len(), properties.backend);
    for (need, reason, count) in &skipped {
        println!("{count} skipped, which need {need:?}: {reason}");
    }
    assert!(count > 0, "every case is skipped");
}

/// The needs that a device does not meet, why not, and how many cases have each; in the order in which they come first.
fn skipped(properties: &Properties, needs: &[Need]) -> Vec<(Need, &'static str, usize)> {
    let mut skipped: Vec<(Need, &'static str, usize)> = Vec::new();
    for &need in needs {
        let Err(reason) = need.is_met(properties) else { continue };
        match skipped.iter_mut().find(|(other, ..)| *other == need) {
            Some((.., count)) => *count += 1,
            None => skipped.push((need, reason, 1)),
        }
    }
    skipped
}

/// The budget of the cases that do not care.
const BUDGET_BYTES: u64 = 1 << 30;

/// A manager with [`BUDGET_BYTES`].
fn manager<B: Backend>(backend: B) -> MemoryManager<B> {
    MemoryManager::with_config(backend, config_with_budget(BUDGET_BYTES)).expect("the budget is given")
}

/// The same with blocks that have memory of their own.
fn block_manager<B: Backend>(backend: B) -> MemoryManager<B> {
    MemoryManager::with_config(backend, config_with_blocks(BUDGET_BYTES)).expect("the budget is given")
}

/// Whether parts of mapped memory can be given back: they come again where they are touched, of which [`Faulty`] is not told.
///
/// [`Faulty`]: crate::Faulty
fn may_return_parts<B: Backend>(manager: &MemoryManager<B>) -> bool {
    manager.config().policy == Policy::Elastic
        && manager.properties().capabilities.contains(Capabilities::RELEASE_RANGE)
}

/// Tests a backend with the whole suite: one `#[test]` for each case, and one that fails if every case was skipped.
///
/// The argument is an expression that makes a backend; it is used many times. `single_threaded` before it leaves the
/// cases out that move buffers between threads, for backends whose types are not `Send` and `Sync`. After a comma, `then` and an
/// expression of type `()` that is run at the end of every test: to check that nothing is left behind.
///
/// ```
/// mod host {
///     aquifer_testkit::conformance!(aquifer_host::Host::new().expect("the system says how much memory it has"));
/// }
/// mod host_leaves_nothing {
///     use aquifer_host::Host;
///     aquifer_testkit::conformance!(Host::new().expect("as above"), then assert!(!std::thread::panicking()));
/// }
/// ```
#[macro_export]
macro_rules! conformance {
    (single_threaded $make:expr) => { $crate::conformance!(@cases $make; (); ); };
    (single_threaded $make:expr, then $check:expr) => { $crate::conformance!(@cases $make; $check; ); };
    ($make:expr) => { $crate::conformance!(@threads $make; ()); };
    ($make:expr, then $check:expr) => { $crate::conformance!(@threads $make; $check); };
    (@cases $make:expr; $check:expr; $($more:tt)*) => {
        $crate::conformance_tests! { $make; $check;
            basic {
                a_device_is_described_sanely: Nothing,
                budgets_are_sane: Nothing,
                blocks_are_aligned_and_do_not_overlap: HostVisible,
                new_blocks_are_zero: ZeroedBlocks,
                host_pointers_follow_the_flags: Nothing,
                device_addresses_are_aligned_and_stay: Nothing,
                copy_and_fill_touch_just_their_range: HostVisible,
                values_come_back: HostVisible,
                memory_is_seen_as_values: HostVisible,
                out_of_bounds_changes_nothing: HostVisible,
                views_have_bounds_of_their_own: HostVisible,
                views_keep_the_buffer: HostVisible,
                copies_arrive: HostVisible,
                invisible_memory_refuses_the_host: HostInvisible,
                fill_and_copy_need_no_host: Nothing,
                senseless_requests_are_refused: Nothing,
            }
            views {
                parts_have_bounds_of_their_own: HostVisible,
                a_view_is_split_anywhere: HostVisible,
                a_view_is_seen_as_values: HostVisible,
                values_must_fit: HostVisible,
                typed_views_count_values: HostVisible,
                typed_views_have_bounds: HostVisible,
                who_holds_values_keeps_others_away: HostVisible,
                disjoint_values_are_held_at_the_same_time: HostVisible,
                what_is_held_keeps_the_buffer: HostVisible,
                copies_within_a_buffer_arrive: HostVisible,
            }
            allocation {
                every_size_is_served: HostVisible,
                every_alignment_is_kept: HostVisible,
                zeroed_memory_is_zero: HostVisible,
                reused_memory_is_zero_by_policy: HostVisible,
                live_buffers_do_not_overlap: HostVisible,
                freed_memory_is_used_again: Nothing,
                large_requests_are_dedicated: CommitOnTouch,
                tags_are_names: Nothing,
                buffers_outlive_their_manager: Nothing,
            }
            statistics {
                everything_adds_up_after_each_phase: Nothing,
                counts_match_an_oracle: Nothing,
                peaks_are_exact: Nothing,
                reserved_is_what_the_driver_gave: Nothing,
                live_allocations_are_listed: Nothing,
            }
            exhaustion {
                more_than_the_budget_can_never_fit: Nothing,
                a_spent_budget_is_reported_truly: Nothing,
                freeing_makes_room_again: Nothing,
                caches_hide_no_memory: Nothing,
                the_budget_is_never_exceeded: Nothing,
                trim_gives_everything_back: Nothing,
                trim_to_stops_in_time: Nothing,
                the_number_of_blocks_is_limited: Nothing,
                trim_gives_free_parts_of_blocks_back: ReleaseRange,
                a_full_budget_takes_free_parts_of_blocks: ReleaseRange,
            }
            purgeable {
                memory_is_purgeable_exactly_where_promised: Nothing,
                content_is_kept_or_reported_lost: Purgeable,
                purgeable_blocks_can_be_destroyed: Purgeable,
                idle_memory_becomes_purgeable_and_comes_back: Purgeable,
                live_memory_is_never_purgeable: Purgeable,
                purgeable_memory_comes_back_zeroed: Purgeable,
                purgeable_blocks_make_room: Purgeable,
            }
            sparse {
                there_are_sparse_blocks_exactly_where_promised: Nothing,
                sparse_blocks_have_addresses_of_their_own: SparseBlocks,
                memory_is_seen_through_several_parts: MappedMemory,
                physical_blocks_of_all_sizes_are_apart: MappedMemory,
                unmapped_memory_keeps_what_it_holds: MappedMemory,
                sparse_blocks_are_destroyed_mapped_or_not: MappedMemory,
                new_physical_blocks_are_zero: MappedMemory,
                released_memory_comes_back_zeroed: ReleaseMapped,
                the_host_sees_mapped_memory: MappedMemory,
            }
            pinned {
                pinned_memory_is_host_visible: Nothing,
                kinds_that_the_device_has_not_are_refused: Nothing,
                unified_memory_is_used_where_it_is: Unified,
                pinned_memory_is_a_slice: Pinned,
                pinned_memory_is_used_by_the_device: Pinned,
                pinned_allocations_are_counted: Pinned,
                so_many_are_live_at_once_and_no_more: Pinned,
                what_is_too_large_is_refused_at_once: Pinned,
                a_refusal_to_lock_says_what_to_do: Pinned,
                unlocked_memory_stands_in_by_configuration: Pinned,
                idle_blocks_count_as_locked_no_longer_than_need_be: Pinned,
                collections_live_in_pinned_memory: Pinned,
                collections_meet_the_limits: Pinned,
                the_allocator_keeps_its_contract: Pinned,
            }
            unified {
                they_are_zero_copy_exactly_where_memory_is_unified: Nothing,
                the_host_reads_what_it_writes: UnifiedBuffers,
                sides_have_names: Nothing,
            }
            queues {
                there_are_queues_exactly_where_promised: Nothing,
                a_new_queue_has_the_value_0: Queues,
                values_rise_in_order: Queues,
                what_is_before_a_reached_value_has_happened: WorkingQueues,
                commands_run_in_order: WorkingQueues,
                host_memory_is_copied_both_ways: WorkingQueues,
                tickets_count_what_arrives: Queues,
                a_value_that_nobody_signalled_times_out: Queues,
                one_queue_waits_for_another: WorkingQueues,
                queues_take_turns: WorkingQueues,
                what_is_cancelled_holds_nothing_up: WorkingQueues,
                queues_come_and_go: WorkingQueues,
            }
            $($more)*
        }
    };
    (@threads $make:expr; $check:expr) => {
        $crate::conformance! { @cases $make; $check;
            threads {
                buffers_are_freed_on_other_threads: HostVisible,
                threads_may_end_with_buffers_alive: HostVisible,
                the_manager_may_go_first: HostVisible,
                trimming_disturbs_nobody: HostVisible,
                caches_of_other_threads_are_found: Nothing,
                every_thread_is_counted: Nothing,
            }
            view_threads {
                disjoint_views_are_written_at_the_same_time: HostVisible,
                readers_meet: HostVisible,
                writers_come_one_after_the_other: HostVisible,
                copies_crosswise_come_to_an_end: HostVisible,
                values_may_be_dropped_elsewhere: HostVisible,
            }
            queue_threads {
                a_queue_takes_the_work_of_many_threads: Queues,
                values_are_seen_by_other_threads: WorkingQueues,
            }
            queue_memory {
                a_queue_uses_its_memory_again_at_once: UnwatchedQueues,
                what_queues_use_comes_back: Queues,
                operations_give_back_what_they_used: Queues,
                operations_may_be_dropped: Queues,
                senseless_operations_give_back_what_they_were_given: Queues,
                waiting_allocations_are_served_or_told: Nothing,
                callbacks_give_memory_back: Nothing,
            }
            unified_queues {
                both_sides_see_what_the_other_writes: UnifiedBuffersOnQueues,
                queues_take_turns_with_a_buffer: UnifiedBuffersOnQueues,
                prefetches_change_nothing: UnifiedBuffersOnQueues,
                it_may_be_dropped_in_flight: UnifiedBuffersOnQueues,
            }
            pinned_threads {
                pinned_memory_is_freed_on_other_threads: Pinned,
                queues_use_pinned_memory: Pinned,
                waiting_allocations_get_the_next_place: Pinned,
            }
            transfers {
                uploads_and_downloads_arrive: WorkingQueues,
                transfers_copy_and_fill: WorkingQueues,
                pinned_memory_is_transferred: WorkingQueues,
                views_are_transferred: WorkingQueues,
                cancelled_transfers_leave_nothing: WorkingQueues,
                transfers_are_counted: WorkingQueues,
            }
            import {
                memory_is_used_where_it_is: Import,
                queues_use_imported_memory: Import,
                it_is_a_buffer_like_any_other: Import,
                it_serves_nobody_else: Import,
                senseless_memory_comes_back: Import,
                imported_buffers_outlive_their_manager: Import,
                many_threads_import_and_free: Import,
            }
        }
    };
}

/// The expansion of [`conformance!`](crate::conformance!).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr; $check:expr; $($module:ident { $($case:ident: $need:ident,)+ })+) => {
        #[test]
        fn some_case_runs() {
            let needs = [$($($crate::conformance::Need::$need),+),+];
            $crate::conformance::assert_some_run(|| $make, &needs);
            $check
        }
        $($crate::conformance_tests! { @module $make; $check; $module { $($case: $need,)+ } })+
    };
    (@module $make:expr; $check:expr; $module:ident { $($case:ident: $need:ident,)+ }) => {
        mod $module {
            #[allow(unused_imports, reason = "the expression may name what is around the macro, or not")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    let name = concat!(stringify!($module), "::", stringify!($case));
                    let need = $crate::conformance::Need::$need;
                    let case = |make| $crate::conformance::$module::$case(make);
                    $crate::conformance::run(name, need, || $make, case, || $check);
                }
            )+
        }
    };
}
