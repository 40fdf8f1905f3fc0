//! Asking work that waits to stop waiting.

use crate::calls::wake_all;
use crate::sync::{AtomicBool, Mutex, Ordering, Rank};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

/// A wish that work should stop, shared between who wishes and who works.
///
/// A handle: clones are cheap and mean the same wish, and any thread may use them. Once cancelled a token stays so; make a
/// new one for new work. Dropping a token cancels nothing.
///
/// ```
/// use aquifer_core::CancelToken;
/// let token = CancelToken::new();
/// let worker = std::thread::spawn({
///     let token = token.clone();
///     move || {
///         while !token.is_cancelled() {
///             std::thread::yield_now();
///         }
///     }
/// });
/// token.cancel();
/// worker.join().unwrap();
/// ```
#[derive(Clone)]
pub struct CancelToken(Arc<Inner>);

struct Inner {
    is_cancelled: AtomicBool,
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    registered_count: u64,
    by_registration: BTreeMap<u64, Waker>,
}

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("is_cancelled", &self.is_cancelled()).finish()
    }
}

impl CancelToken {
    /// A token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        let wakers = Mutex::new(Rank::Waiters, Wakers::default());
        Self(Arc::new(Inner { is_cancelled: AtomicBool::new(false), wakers }))
    }

    /// Cancels, and wakes everything that waits with this token. The second time and later it does nothing. Takes a
    /// short lock; wakers are called on this thread, after it.
    pub fn cancel(&self) {
        let mut wakers = self.0.wakers.lock();
        self.0.is_cancelled.store(true, Ordering::Release);
        let cancelled = std::mem::take(&mut wakers.by_registration);
        drop(wakers);
        wake_all(cancelled.into_values());
    }

    /// Whether [`CancelToken::cancel`] has been called. What was done before the call is seen after a `true`. One
    /// atomic load.
    #[inline]
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }

    /// Whether it is cancelled; if not, `waker` is woken when it is, for as long as `registration` lives. A
    /// registration is used again by later polls, whose wakers replace each other.
    pub(crate) fn poll_cancelled(&self, waker: &Waker, registration: &mut Option<Registration>) -> bool {
        if self.is_cancelled() {
            return true;
        }
        // To clone or drop a waker is the user's code, so neither is done under the lock.
        let waker = waker.clone();
        let known = registration.as_ref().filter(|known| Arc::ptr_eq(&known.token.0, &self.0));
        let known = known.map(|known| known.number);
        let mut wakers = self.0.wakers.lock();
        // Set and asked under the lock: whoever cancels later finds the waker.
        if self.is_cancelled() {
            drop(wakers);
            return true;
        }
        let number = known.unwrap_or_else(|| {
            wakers.registered_count += 1;
            wakers.registered_count
        });
        let replaced = wakers.by_registration.insert(number, waker);
        drop(wakers);
        drop(replaced);
        if known.is_none() {
            *registration = Some(Registration { token: self.clone(), number });
        }
        false
    }
}

/// A waker's place in a token. Gives it up when dropped.
pub(crate) struct Registration {
    token: CancelToken,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let waker = self.token.0.wakers.lock().by_registration.remove(&self.number);
        drop(waker);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("token", &self.token).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicUsize;
    use std::task::Wake;

    /// Counts its rings; asks the token itself when it rings and when it goes.
    struct Bell {
        rings: Arc<AtomicUsize>,
        token: CancelToken,
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.rings.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Drop for Bell {
        fn drop(&mut self) {
            drop(self.token.0.wakers.lock());
        }
    }

    fn bell(token: &CancelToken) -> (Arc<AtomicUsize>, Waker) {
        let rings = Arc::new(AtomicUsize::new(0));
        let bell = Bell { rings: Arc::clone(&rings), token: token.clone() };
        (rings, Arc::new(bell).into())
    }

    fn waker_count(token: &CancelToken) -> usize {
        token.0.wakers.lock().by_registration.len()
    }

    #[test]
    fn all_clones_are_cancelled_and_all_who_wait_are_woken_once() {
        let token = CancelToken::new();
        assert!(!token.is_cancelled());
        let waits = [bell(&token), bell(&token)];
        let mut registrations = [None, None];
        for ((_, waker), registration) in waits.iter().zip(&mut registrations) {
            assert!(!token.poll_cancelled(waker, registration));
        }
        token.clone().cancel();
        token.cancel();
        assert!(token.is_cancelled());
        for ((rings, waker), registration) in waits.iter().zip(&mut registrations) {
            assert_eq!(rings.load(Ordering::Relaxed), 1);
            assert!(token.poll_cancelled(waker, registration));
        }
        assert_eq!(format!("{token:?}"), "CancelToken { is_cancelled: true }");
    }

    #[test]
    fn the_last_waker_of_a_registration_is_woken() {
        let token = CancelToken::default();
        let ((old_rings, old), (rings, waker)) = (bell(&token), bell(&token));
        let mut registration = None;
        assert!(!token.poll_cancelled(&old, &mut registration));
        drop(old);
        assert!(!token.poll_cancelled(&waker, &mut registration));
        assert_eq!(waker_count(&token), 1);
        assert_eq!(Arc::strong_count(&old_rings), 1, "the old waker is gone");
        token.cancel();
        assert_eq!((old_rings.load(Ordering::Relaxed), rings.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn a_dropped_registration_leaves_no_waker_behind() {
        let token = CancelToken::new();
        let (rings, waker) = bell(&token);
        let mut registration = None;
        assert!(!token.poll_cancelled(&waker, &mut registration));
        drop((waker, registration));
        assert_eq!((waker_count(&token), Arc::strong_count(&rings)), (0, 1));
        token.cancel();
        assert_eq!(rings.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_registration_moves_to_another_token() {
        let (first, second) = (CancelToken::new(), CancelToken::new());
        let (rings, waker) = bell(&first);
        let mut registration = None;
        assert!(!first.poll_cancelled(&waker, &mut registration));
        assert!(!second.poll_cancelled(&waker, &mut registration));
        assert_eq!((waker_count(&first), waker_count(&second)), (0, 1));
        first.cancel();
        assert_eq!(rings.load(Ordering::Relaxed), 0);
        second.cancel();
        assert_eq!(rings.load(Ordering::Relaxed), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::loom_tests::explore;
    use loom::sync::Notify;
    use loom::thread;
    use std::task::Wake;

    struct Bell(Notify);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.notify();
        }
    }

    fn wait(token: &CancelToken) {
        let bell = Arc::new(Bell(Notify::new()));
        let (waker, mut registration) = (Arc::clone(&bell).into(), None);
        while !token.poll_cancelled(&waker, &mut registration) {
            bell.0.wait();
        }
    }

    /// Two threads wait for a token, a third cancels it meanwhile. A wake-up that is lost is a deadlock.
    ///
    /// 7,900 runs, under 1 s.
    #[test]
    fn a_cancellation_reaches_who_registers_meanwhile() {
        explore(3, || {
            let token = CancelToken::new();
            let threads = [0, 1].map(|which| {
                let token = token.clone();
                thread::spawn(move || if which == 0 { wait(&token) } else { token.cancel() })
            });
            wait(&token);
            for thread in threads {
                thread.join().expect("the thread ends");
            }
            assert!(token.0.wakers.lock().by_registration.is_empty());
        });
    }

    /// A registration is dropped while the token is cancelled: its waker is woken or not, and gone in the end.
    ///
    /// 20 runs, under 0.1 s.
    #[test]
    fn a_registration_goes_while_its_token_is_cancelled() {
        explore(3, || {
            let token = CancelToken::new();
            let cancelling = thread::spawn({
                let token = token.clone();
                move || token.cancel()
            });
            let bell = Arc::new(Bell(Notify::new()));
            let mut registration = None;
            token.poll_cancelled(&Arc::clone(&bell).into(), &mut registration);
            drop(registration);
            cancelling.join().expect("the cancelling thread ends");
            assert_eq!(Arc::strong_count(&bell), 1);
        });
    }
}
