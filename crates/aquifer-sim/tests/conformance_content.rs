//! The suite that every backend must pass, on devices with content: what is written is read back, by the host and by queues.
//!
//! Of the cases with threads one is left out, `values_are_seen_by_other_threads`: it waits for what another thread has yet to
//! enqueue, and virtual time does not.

use aquifer_backend::Capabilities;
use aquifer_sim::{Lateness, Sim, SimDesc};

mod discrete {
    use super::*;

    aquifer_testkit::conformance!(single_threaded Sim::new(SimDesc::discrete()));
}

/// Memory of parts of blocks is given back, and behind sparse blocks comes again. Physical pages are larger than granules.
mod releasing {
    use super::*;

    aquifer_testkit::conformance!(single_threaded {
        let desc = SimDesc::discrete();
        let capabilities = desc.capabilities | Capabilities::RELEASE_RANGE;
        let granules = SimDesc { block_granularity_bytes: 16 << 10, physical_page_bytes: 64 << 10, ..desc };
        Sim::new(SimDesc { capabilities, ..granules })
    });
}

mod integrated {
    use super::*;

    aquifer_testkit::conformance!(single_threaded Sim::new(SimDesc::integrated()));
}

mod late {
    use super::*;

    aquifer_testkit::conformance!(single_threaded Sim::new(SimDesc {
        lateness: Lateness::WILD,
        ..SimDesc::integrated()
    }));
}

/// What takes its turns on queues, where buffers have a shadow.
mod shadows {
    use super::*;

    aquifer_testkit::conformance_tests! { Sim::new(SimDesc { lateness: Lateness::WILD, ..SimDesc::discrete() }); ();
        unified_queues {
            both_sides_see_what_the_other_writes: UnifiedBuffersOnQueues,
            queues_take_turns_with_a_buffer: UnifiedBuffersOnQueues,
            prefetches_change_nothing: UnifiedBuffersOnQueues,
            it_may_be_dropped_in_flight: UnifiedBuffersOnQueues,
        }
    }
}

mod threads {
    use super::*;

    aquifer_testkit::conformance_tests! { Sim::new(SimDesc { lateness: Lateness::WILD, ..SimDesc::integrated() }); ();
        threads {
            buffers_are_freed_on_other_threads: HostVisible,
            threads_may_end_with_buffers_alive: HostVisible,
            the_manager_may_go_first: HostVisible,
            trimming_disturbs_nobody: HostVisible,
        }
        queue_threads {
            a_queue_takes_the_work_of_many_threads: Queues,
        }
        unified_queues {
            both_sides_see_what_the_other_writes: UnifiedBuffersOnQueues,
            queues_take_turns_with_a_buffer: UnifiedBuffersOnQueues,
            prefetches_change_nothing: UnifiedBuffersOnQueues,
            it_may_be_dropped_in_flight: UnifiedBuffersOnQueues,
        }
        queue_memory {
            a_queue_uses_its_memory_again_at_once: UnwatchedQueues,
            what_queues_use_comes_back: Queues,
            operations_give_back_what_they_used: Queues,
            operations_may_be_dropped: Queues,
            senseless_operations_give_back_what_they_were_given: Queues,
        }
    }
}

/// With copy threads of their own, and without.
macro_rules! transfers {
    ($module:ident, $desc:expr) => {
        mod $module {
            use super::*;

            aquifer_testkit::conformance_tests! { Sim::new($desc); ();
                transfers {
                    uploads_and_downloads_arrive: WorkingQueues,
                    transfers_copy_and_fill: WorkingQueues,
                    pinned_memory_is_transferred: WorkingQueues,
                    views_are_transferred: WorkingQueues,
                    cancelled_transfers_leave_nothing: WorkingQueues,
                    transfers_are_counted: WorkingQueues,
                }
            }
        }
    };
}

transfers!(transfers_discrete, SimDesc::discrete());
transfers!(transfers_integrated, SimDesc::integrated());
transfers!(transfers_late, SimDesc { lateness: Lateness::WILD, ..SimDesc::discrete() });
