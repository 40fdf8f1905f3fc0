//! What queues have passed, who is told of it, and the end of transfers.

use super::super::Progress;
use super::super::TransferOptions;
use super::super::desc::EntryDesc;
use super::super::entry::Entry;
use super::state::State;
use super::{Engine, SPARES_MAX};
use crate::calls::{call, wake_all};
use crate::manager::Shared;
use crate::raw::transfer::Parts;
use aquifer_backend::Backend;
use std::sync::Arc;
use std::task::Waker;

/// An entry that is over, with what must be called and dropped under no lock.
struct Ended<B: Backend> {
    waker: Option<Waker>,
    /// Of one that nobody will ask for: else they are kept, and what is needed for them is already gone.
    parts: Option<Box<dyn Parts<B>>>,
    desc: Option<EntryDesc<B>>,
    options: TransferOptions,
}

/// Something to tell a user, of the transfer with this number.
type Tell = (u64, Arc<dyn Fn(Progress) + Send + Sync>, Progress);

impl<B: Backend> Engine<B> {
    pub(super) fn settle(&self, shared: &Shared<B>) {
        loop {
            let mut state = self.state.lock();
            let State { entries, ring, .. } = &mut *state;
            let mut over = None;
            for (index, entry) in entries.iter_mut().enumerate() {
                if entry.settle(shared, ring) && !entry.is_called_for {
                    over.get_or_insert(index);
                }
            }
            // All has been told before a transfer is over, and of each by one thread at a time, so that it rises.
            if let Some(tell) = state.entries.iter_mut().find_map(tell_of) {
                drop(state);
                self.tell(tell);
                continue;
            }
            let Some(index) = over else { return };
            if let Some(parts) = state.entries[index].parts_to_release() {
                let id = state.entries[index].id;
                drop(state);
                self.release(id, parts);
                continue;
            }
            let Ended { waker, parts, desc, options } = self.end(shared, &mut state, index);
            drop(state);
            // All of these may run other code: frees, of which a recorder's writer hears, the user's, the executor's, a manager's end.
            call("who hears of a free", || drop(parts));
            call("what a progress callback owns", || drop(options));
            wake_all(waker);
            self.bell.ring();
            let Some(EntryDesc { near, far, after, needs_ring, manager, .. }) = desc else { continue };
            // The manager last: with it all slots go.
            drop((near, far, after, needs_ring));
            drop(manager);
        }
    }

    fn tell(&self, (id, tell, progress): Tell) {
        call("a progress callback", || tell(progress));
        call("what a progress callback owns", || drop(tell));
        let mut state = self.state.lock();
        state.entry(id).expect("it is not over while it is called for").is_called_for = false;
    }

    /// Lets others use what a transfer has used, whether or not anybody asks what became of it.
    fn release(&self, id: u64, mut parts: Box<dyn Parts<B>>) {
        call("a waker", || parts.release());
        let mut state = self.state.lock();
        let entry = state.entry(id).expect("it is not over while it is called for");
        entry.parts = Some(parts);
        entry.is_called_for = false;
    }

    fn end(&self, shared: &Shared<B>, state: &mut State<B>, index: usize) -> Ended<B> {
        let mut entry = state.entries.swap_remove(index);
        let (id, route, start) = (entry.id, entry.desc.route, entry.start);
        let waker = entry.waker.take();
        let options = std::mem::take(&mut entry.desc.options);
        let is_awaited = entry.has_future || entry.parts.is_none();
        let parts = entry.parts.take();
        let (over, spare, desc) = entry.end();
        self.count(route, &over, shared.config.clock.now().saturating_sub(start));
        if state.spares.len() < SPARES_MAX {
            state.spares.push(spare);
        }
        if !is_awaited {
            return Ended { waker, parts, desc: Some(desc), options };
        }
        // Gone before anybody can hear that it is over. None of it is the last: who waits has a handle, and the buffers.
        drop(desc);
        state.ended.push((id, (over, parts)));
        Ended { waker, parts: None, desc: None, options }
    }
}

/// What an entry's user has not been told yet, and is being told then.
fn tell_of<B: Backend>(entry: &mut Entry<B>) -> Option<Tell> {
    let done_bytes = entry.done_bytes();
    let is_news = done_bytes > entry.told_bytes && !entry.is_called_for;
    let tell = entry.desc.options.progress.as_ref().filter(|_| is_news)?;
    entry.told_bytes = done_bytes;
    entry.is_called_for = true;
    Some((entry.id, Arc::clone(tell), Progress { done_bytes, bytes: entry.plan.bytes }))
}
