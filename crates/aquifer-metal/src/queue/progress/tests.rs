//! What becomes of steps and markers, without a device.

use super::*;
use aquifer_backend::ErrorKind;
use std::cell::RefCell;

/// Steps 1 to `count`, each with a ticket that counts one byte.
fn steps(progress: &Progress, count: u64) -> Vec<Arc<Ticket>> {
    let step = |number| {
        let ticket = Arc::new(Ticket::default());
        progress.push(number, Effect::new(&ticket, 1));
        ticket
    };
    (1..=count).map(step).collect()
}

#[test]
fn a_value_rises_when_all_before_it_has_ended_whatever_ends_first() {
    let progress = Progress::default();
    let passed = RefCell::new(Vec::new());
    let end = |number| progress.end(number, Ok(()), |number| passed.borrow_mut().push(number));
    let tickets = steps(&progress, 2);
    progress.mark(1);
    progress.push(3, Effect::default());
    progress.mark(2);

    end(2);
    assert_eq!((progress.value(), tickets[1].done_bytes()), (0, 0), "the first has not ended");
    end(3);
    assert_eq!(progress.value(), 0);
    end(1);
    assert_eq!((progress.value(), tickets[0].done_bytes(), tickets[1].done_bytes()), (2, 1, 1));
    assert_eq!(*passed.borrow(), [1, 2, 3]);
    assert!(progress.idle().is_some());
}

#[test]
fn a_step_that_is_cancelled_ends_in_its_turn_and_does_nothing() {
    let progress = Progress::default();
    let tickets = steps(&progress, 2);
    progress.mark(1);
    let passed = RefCell::new(Vec::new());
    progress.cancel(2, |number| passed.borrow_mut().push(number));
    assert!(passed.borrow().is_empty() && progress.value() == 0 && progress.idle().is_none());
    progress.end(1, Ok(()), |number| passed.borrow_mut().push(number));
    assert_eq!((passed.take(), progress.value()), (vec![1, 2], 1));
    assert_eq!((tickets[0].done_bytes(), tickets[1].done_bytes()), (1, 0));
    assert!(tickets[1].take_error().is_none());
}

#[test]
fn an_idle_queue_reaches_a_marker_at_once() {
    let progress = Progress::default();
    progress.mark(1);
    assert_eq!(progress.value(), 1);
    assert_eq!(progress.step_before(1), None);
}

#[test]
fn failure_is_told_in_order_and_holds_nothing_up() {
    let progress = Progress::default();
    let tickets = steps(&progress, 2);
    progress.mark(1);
    progress.end(2, Ok(()), |_| {});
    progress.end(1, Err(Error::new(ErrorKind::Driver, "test", "")), |_| {});
    assert_eq!(progress.value(), 1);
    assert!(tickets[0].take_error().is_some());
    assert_eq!((tickets[0].done_bytes(), tickets[1].done_bytes()), (0, 1));
}

#[test]
fn a_step_that_waits_for_another_queue_ends_after_it() {
    let [writer, reader] = [(); 2].map(|()| Arc::new(Progress::default()));
    writer.push(1, Effect::default());
    reader.push_with(1, Effect::default(), 2);
    reader.mark(1);
    let then = {
        let reader = Arc::clone(&reader);
        move || reader.note_end(1, Ok(()), |_| {})
    };
    writer.when_passed(1, then);
    reader.end(1, Ok(()), |_| {});
    assert_eq!(reader.value(), 0, "the device has passed both, the host not");
    writer.end(1, Ok(()), |_| {});
    assert_eq!(reader.value(), 1);
    reader.push_with(2, Effect::default(), 1);
    let then = {
        let reader = Arc::clone(&reader);
        move || reader.note_end(2, Ok(()), |_| {})
    };
    writer.when_passed(1, then);
    assert!(reader.idle().is_some(), "it had passed");
}

#[test]
fn the_step_before_a_marker_is_found() {
    let progress = Progress::default();
    progress.push(1, Effect::default());
    progress.push(2, Effect::default());
    progress.mark(1);
    progress.push(3, Effect::default());
    progress.mark(2);
    progress.mark(3);
    let before = |value| progress.step_before(value);
    assert_eq!([1, 2, 3, 4].map(before), [Some(2), Some(3), Some(3), None]);
}

#[test]
fn waiting_ends_by_the_value_the_time_or_the_end_of_all_hope() {
    let progress = Progress::default();
    progress.push(1, Effect::default());
    progress.mark(1);
    assert!(!progress.wait(1, Duration::ZERO, || false));
    assert!(!progress.wait(1, Duration::MAX, || true));
    std::thread::scope(|scope| {
        scope.spawn(|| progress.end(1, Ok(()), |_| {}));
        assert!(progress.wait(1, Duration::MAX, || false));
    });
}
