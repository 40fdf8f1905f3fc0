//! What becomes of a command buffer that is committed.

use super::command_buffer::{CommandBuffer, Encoded, Encoding, KeptHandler};
use super::{Handle, Proto};
use crate::event::Event;
use crate::work::{Command, Failure, Job, Pass, Step, Task};
use objc2::{DefinedClass, Message};
use objc2_metal::{MTLCommandBuffer, MTLCommandBufferStatus};
use std::ptr::NonNull;
use std::sync::Arc;

impl CommandBuffer {
    /// What the queue's thread gets to do.
    pub(super) fn job(&self, encoded: Vec<Encoding>, has_scheduled: bool) -> Job {
        let steps = encoded.into_iter().map(|encoding| match encoding {
            Encoding::Signal(event, value) => Step::Signal(event, value),
            Encoding::Wait(event, value) => Step::Wait(event, value),
            Encoding::Pass(encoded) => Step::Pass(self.pass(encoded)),
        });
        let steps = steps.collect();
        let (first, last) = (Handle(self.retain()), Handle(self.retain()));
        Job {
            steps,
            fails: self.device().state().faults.next_command_buffer_fails(),
            begin: Some(Box::new(move || {
                first.get().schedule(has_scheduled);
                has_scheduled.then(|| Box::new(move || first.get().call_scheduled()) as Task)
            })),
            end: Box::new(move |outcome| {
                last.get().finish(outcome);
                Box::new(move || last.get().call_completed())
            }),
        }
    }

    fn pass(&self, encoded: Encoded) -> Pass {
        let Encoded { commands, waits_for, updates } = encoded;
        let over = Arc::new(Event::default());
        let waits_for = waits_for.iter().filter_map(|fence| fence.last_update()).collect();
        updates.iter().for_each(|fence| fence.update(&over));
        let mut attached = self.ivars().queue.residency_sets().committed();
        attached.extend(self.ivars().residency_sets.committed());
        for memory in
            commands.iter().flat_map(Command::targets).filter_map(|(target, _)| target.memory().ok())
        {
            assert!(
                memory.is_usable(),
                "a resource referenced in a command buffer is in volatile or empty purgeable state at commit"
            );
            self.device().state().residency.count_use(memory.allocation_id(), &attached);
        }
        Pass::new(commands, waits_for, over)
    }

    fn schedule(&self, has_handlers: bool) {
        let mut inner = self.inner();
        inner.status = MTLCommandBufferStatus::Scheduled;
        inner.is_scheduled = !has_handlers;
        drop(inner);
        self.ivars().changed.notify_all();
    }

    fn finish(&self, outcome: Result<(), Failure>) {
        let mut inner = self.inner();
        inner.status =
            if outcome.is_ok() { MTLCommandBufferStatus::Completed } else { MTLCommandBufferStatus::Error };
        inner.failure = outcome.err();
        let place = inner.place.take();
        drop(inner);
        drop(place);
        self.ivars().changed.notify_all();
    }

    fn call(&self, handlers: Vec<KeptHandler>) {
        let this: NonNull<Proto<dyn MTLCommandBuffer>> = NonNull::from(Proto::from_ref(self));
        handlers.iter().for_each(|handler| handler.call((this,)));
    }

    fn call_scheduled(&self) {
        let _first = self.ivars().scheduling.lock();
        let handlers = std::mem::take(&mut self.inner().on_scheduled);
        self.call(handlers);
        self.inner().is_scheduled = true;
        self.ivars().changed.notify_all();
    }

    /// Calls the handlers, and lets go of everything before those who wait go on, even if a handler panics.
    fn call_completed(&self) {
        struct Over<'a>(&'a CommandBuffer);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                let kept = std::mem::take(&mut self.0.inner().kept);
                drop(kept);
                self.0.inner().is_over = true;
                self.0.ivars().changed.notify_all();
            }
        }
        let _over = Over(self);
        self.call_scheduled();
        let handlers = std::mem::take(&mut self.inner().on_completed);
        self.call(handlers);
    }
}
