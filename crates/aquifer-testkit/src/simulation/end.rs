//! How a program ends, and what must be true then.

use super::scene::Scene;

/// How often everything is let run and looked at before what is not over then counts as stuck.
const ROUNDS_MAX: usize = 64;

impl Scene {
    /// Ends the program: everything is dropped or finished, and everything given back. The device's books then.
    pub(super) fn end(mut self) -> aquifer_sim::Books {
        self.clear_faults();
        self.resume();
        self.sim.set_other_process_bytes(0);
        self.check();
        if !self.sim.is_lost() && self.queues.len().is_multiple_of(2) {
            self.check_deadlines();
        }
        if self.setup.outlives_manager { self.end_with_buffers_live() } else { self.end_with_nothing_live() }
    }

    fn free_all(&mut self) {
        for held in self.shelf.take_all() {
            held.free(&self.sim);
        }
        for held in std::mem::take(&mut self.buffers) {
            held.free(&self.sim);
        }
    }

    /// Lets everything end by itself that is under way.
    fn finish_all(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.free_all();
            self.sim.run_all();
            self.manager.settle();
            self.poll_woken();
            self.sim.advance(200_000_000);
            let is_over = self.operations.is_empty() && self.requests.is_empty() && self.buffers.is_empty();
            if is_over && self.shelf.len() == 0 {
                return;
            }
        }
        let (operations, requests) = (self.operations.len(), self.requests.len());
        panic!("stuck: {operations} operations and {requests} requests are not woken");
    }

    fn end_with_nothing_live(mut self) -> aquifer_sim::Books {
        self.finish_all();
        self.forgotten.clear();
        self.shelf.clear();
        self.pass_markers();
        self.loose_count = 0;
        let statistics = self.check();
        assert_eq!(statistics.quarantined_bytes, 0, "all queues are idle");
        self.check_whole_budget();
        // What was cached for a queue needs a marker of its own before anybody may have it.
        self.manager.trim();
        self.pass_markers();
        self.manager.trim();
        assert_eq!(self.check().reserved.current, 0, "reserved after trimming");
        self.let_manager_go()
    }

    /// Lets queues pass the markers of all that waits for them: first for other queues than its home, then for that.
    fn pass_markers(&self) {
        for _ in 0..3 {
            self.manager.settle();
            self.sim.run_all();
        }
        self.manager.settle();
    }

    /// With nothing live all of the budget can be had, by who waits for the queues.
    fn check_whole_budget(&self) {
        if self.sim.is_lost() || !self.waits_long() {
            return;
        }
        let buffer = self.manager.allocate(self.budget_bytes());
        let buffer = buffer.unwrap_or_else(|error| panic!("the whole budget cannot be had: {error}"));
        assert_eq!(buffer.allocated_bytes(), self.budget_bytes());
    }

    fn end_with_buffers_live(mut self) -> aquifer_sim::Books {
        for pending in std::mem::take(&mut self.operations) {
            self.detach(pending);
        }
        self.requests.clear();
        self.forgotten.clear();
        self.shelf.clear();
        self.let_manager_go()
    }

    /// Drops the queues and the manager, then what buffers there are; nothing is left of it all.
    fn let_manager_go(self) -> aquifer_sim::Books {
        let Self { sim, manager, queues, buffers, shelf, operations, requests, forgotten, watching, .. } =
            self;
        drop((operations, requests, forgotten, queues));
        // Some monitors go before their manager.
        let late = watching.filter(|_| self.step.is_multiple_of(2));
        drop(manager);
        drop(late);
        for held in shelf.take_all().into_iter().chain(buffers) {
            held.free(&sim);
        }
        drop(shelf);
        sim.run_all();
        let books = sim.books();
        assert_eq!((books.live_blocks, books.live_bytes), (0, 0), "blocks after the manager has gone");
        assert_eq!((books.live_mappings, books.sparse_bytes), (0, 0), "addresses after the manager has gone");
        let violations = sim.violations();
        if let Some(first) = violations.first() {
            panic!("violation {:?}: {first}", first.kind);
        }
        books
    }
}
