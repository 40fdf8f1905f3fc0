//! Allocations that wait for memory.

use super::flag::Flag;
use super::program::Action;
use super::scene::Scene;
use aquifer_core::{AllocateAsync, CancelToken, ErrorKind};
use aquifer_sim::{QueueId, Sim};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// One who waits for memory.
#[derive(Debug)]
pub(super) struct Request {
    future: AllocateAsync<Sim>,
    pub(super) flag: Arc<Flag>,
    home: Option<QueueId>,
    bytes: u64,
    token: Option<CancelToken>,
    timeout_ms: Option<u64>,
    /// When it was first polled.
    start_ms: Option<u64>,
}

impl Scene {
    pub(super) fn use_requests(&mut self, action: Action) {
        let place = |number: u8, scene: &Self| Self::place(number, scene.requests.len());
        match action {
            Action::AllocateAsync { queue, bytes, timeout_ms, token } => {
                self.request(queue, bytes, timeout_ms, token);
            }
            Action::PollRequest { request } => {
                if let Some(place) = place(request, self) {
                    self.poll_request(place);
                }
            }
            Action::DropRequest { request } => {
                if let Some(place) = place(request, self) {
                    self.requests.swap_remove(place);
                }
            }
            Action::ForgetRequest { request } => {
                if let Some(place) = place(request, self) {
                    let request = self.requests.swap_remove(place);
                    self.forgotten.push(request.future);
                }
            }
            Action::CancelToken { token } => {
                let place = usize::from(token) % self.tokens.len();
                std::mem::take(&mut self.tokens[place]).cancel();
                self.answer_all("cancelled", |request| {
                    request.token.as_ref().is_some_and(CancelToken::is_cancelled)
                });
            }
            _ => unreachable!("not about requests: {action:?}"),
        }
    }

    fn request(&mut self, queue: u8, bytes: u64, timeout_ms: Option<u16>, token: Option<u8>) {
        let mut future = self.manager.allocate_async(bytes);
        let home = self.home(queue);
        if let Some(queue) = &home {
            future = future.on(queue);
        }
        if let Some(timeout_ms) = timeout_ms {
            future = future.timeout(Duration::from_millis(timeout_ms.into()));
        }
        let token = token.map(|token| self.tokens[usize::from(token) % self.tokens.len()].clone());
        if let Some(token) = &token {
            future = future.cancel_token(token);
        }
        self.requests.push(Request {
            future,
            flag: Flag::up(),
            home: home.map(|queue| queue.raw().id()),
            bytes,
            token,
            timeout_ms: timeout_ms.map(u64::from),
            start_ms: None,
        });
        self.poll_request(self.requests.len() - 1);
    }

    /// Polls those that must have an answer now: they must have been woken for it, and get it.
    fn answer_all(&mut self, what: &str, must_answer: impl Fn(&Request) -> bool) {
        let mut place = 0;
        while place < self.requests.len() {
            if !must_answer(&self.requests[place]) {
                place += 1;
                continue;
            }
            assert!(self.requests[place].flag.is_up(), "{what}, and not woken: {:?}", self.requests[place]);
            assert!(self.poll_request(place), "{what}, and no answer: {:?}", self.requests[place]);
        }
    }

    /// Lets so much time pass that nobody may wait any longer who does not wait for ever.
    pub(super) fn check_deadlines(&mut self) {
        self.sim.advance(3_000_000_000);
        self.manager.settle();
        self.answer_all("late", |request| request.timeout_ms.is_some());
    }

    /// Polls one; true if it has its answer, and is gone.
    pub(super) fn poll_request(&mut self, place: usize) -> bool {
        let now_ms = self.sim.now_ns() / 1_000_000;
        let request = &mut self.requests[place];
        request.flag.lower();
        request.start_ms.get_or_insert(now_ms);
        let waker = Waker::from(Arc::clone(&request.flag));
        let Poll::Ready(answer) = Pin::new(&mut request.future).poll(&mut Context::from_waker(&waker)) else {
            return false;
        };
        let Request { home, bytes, token, timeout_ms, start_ms, .. } = self.requests.swap_remove(place);
        let error = match answer {
            Ok(buffer) => {
                self.hold(buffer, home, bytes, 256);
                return true;
            }
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::Cancelled => {
                assert!(token.is_some_and(|token| token.is_cancelled()), "nobody cancelled: {error}");
            }
            ErrorKind::TimedOut => {
                let deadline_ms = start_ms.zip(timeout_ms).map(|(start, timeout)| start + timeout);
                let now_ms = self.sim.now_ns() / 1_000_000;
                assert!(deadline_ms.is_some_and(|deadline| deadline <= now_ms), "too early: {error}");
            }
            ErrorKind::CanNeverFit => self.check_can_never_fit(bytes, &error),
            _ => self.check_error("allocate_async", &error),
        }
        true
    }
}
