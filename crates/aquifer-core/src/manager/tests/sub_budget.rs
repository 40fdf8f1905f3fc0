//! What a soft limit tells through `tracing`, and what is left when its listener panics.

use super::{MIB, MemoryOptions, plain_manager};
use crate::statistics::Limits;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber};

/// Counts warnings of sub-budgets, and panics at each if it is told to.
#[derive(Default)]
struct Listener {
    warnings: AtomicU64,
    panics: AtomicBool,
}

struct Listening(Arc<Listener>);

impl Subscriber for Listening {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.fields().field("sub_budget").is_some()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.warnings.fetch_add(1, Ordering::Relaxed);
        assert!(!self.0.panics.load(Ordering::Relaxed), "told to panic");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_crossing_is_told_once_and_a_listener_that_panics_frees_the_allocation() {
    let (manager, books) = plain_manager(100);
    let outer = manager.sub_budget("outer", Limits::NONE.soft_bytes(3 * MIB)).expect("a new name");
    let inner = outer.sub_budget("inner", Limits::NONE.soft_count(1)).expect("a new name");
    let options = MemoryOptions::DEFAULT.tag(inner.own_tag());
    let allocate = |bytes| manager.allocate_with(bytes, options).expect("there is room");
    let listener = Arc::new(Listener::default());
    let warnings = || listener.warnings.swap(0, Ordering::Relaxed);
    subscriber::with_default(Listening(Arc::clone(&listener)), || {
        let first = allocate(2 * MIB);
        assert_eq!(warnings(), 0);
        let second = allocate(2 * MIB);
        assert_eq!(warnings(), 2, "one for each");
        let third = allocate(1);
        drop(third);
        drop(second);
        assert_eq!(warnings(), 0);
        listener.panics.store(true, Ordering::Relaxed);
        for bytes in [2 * MIB, 1000, 2 * MIB] {
            let outcome = catch_unwind(AssertUnwindSafe(|| drop(allocate(bytes))));
            assert!(outcome.is_err());
            assert_eq!((warnings(), inner.usage().live_bytes), (1, 2 * MIB));
        }
        listener.panics.store(false, Ordering::Relaxed);
        outer.set_limits(Limits::NONE.soft_bytes(MIB)).expect("sound limits");
        assert_eq!(warnings(), 1);
        drop(first);
    });
    assert_eq!((inner.usage().live_count, outer.usage().live_bytes), (0, 0));
    assert_eq!(manager.statistics().live_count(), 0);
    manager.trim();
    assert_eq!(books.live(), 0);
}
