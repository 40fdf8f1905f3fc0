//! Events.

#![allow(non_snake_case)]

use crate::abi::{Answer, Code, Handle, Out};
use crate::context::{Context, current};
use crate::driver::{Driver, next_handle};
use crate::faults::enter;
use crate::stream;
use crate::work::Work;
use parking_lot::{Condvar, Mutex};
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) context: Arc<Context>,
    times: Mutex<Times>,
    changed: Condvar,
}

/// How often it was recorded, and the last record that has ended.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    recorded: u64,
    completed: u64,
}

impl Event {
    fn record(&self) -> u64 {
        let mut times = self.times.lock();
        times.recorded += 1;
        times.recorded
    }

    pub(crate) fn complete(&self, number: u64) {
        let mut times = self.times.lock();
        times.completed = times.completed.max(number);
        self.changed.notify_all();
    }

    pub(crate) fn wait_unless_lost(&self, number: u64, context: &Context) {
        let mut times = self.times.lock();
        while times.completed < number && context.check().is_ok() {
            self.changed.wait_for(&mut times, Duration::from_millis(1));
        }
    }
}

fn find(driver: &Driver, event: Handle) -> Answer<Arc<Event>> {
    driver.events.lock().get(&event).cloned().ok_or(Code::INVALID_HANDLE)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: Out<Handle>, flags: c_uint) -> c_int {
    enter("cuEventCreate", |driver| {
        event.check()?;
        let context = current(driver)?;
        // Between processes there are no events here; without timing they are as with.
        if flags & !3 != 0 {
            return Err(if flags & !7 == 0 { Code::NOT_SUPPORTED } else { Code::INVALID_VALUE });
        }
        let handle = next_handle();
        let new = Event { context, times: Mutex::default(), changed: Condvar::new() };
        driver.events.lock().insert(handle, Arc::new(new));
        event.put(handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> c_int {
    enter("cuEventRecord", |driver| {
        let context = current(driver)?;
        let event = find(driver, event)?;
        let stream = stream::find(driver, &context, stream)?;
        if event.context.handle != context.handle {
            return Err(Code::INVALID_HANDLE);
        }
        let number = event.record();
        stream.enqueue(Work::Record { event, number });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: Handle) -> c_int {
    enter("cuEventQuery", |driver| {
        let event = find(driver, event)?;
        event.context.check()?;
        let times = *event.times.lock();
        if times.completed < times.recorded { Err(Code::NOT_READY) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: Handle) -> c_int {
    enter("cuEventSynchronize", |driver| {
        let event = find(driver, event)?;
        let number = event.times.lock().recorded;
        event.wait_unless_lost(number, &event.context);
        event.context.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: Handle) -> c_int {
    enter("cuEventDestroy_v2", |driver| {
        let event = driver.events.lock().remove(&event).ok_or(Code::INVALID_HANDLE)?;
        event.context.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> c_int {
    enter("cuStreamWaitEvent", |driver| {
        let context = current(driver)?;
        let event = find(driver, event)?;
        let stream = stream::find(driver, &context, stream)?;
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        let number = event.times.lock().recorded;
        stream.enqueue(Work::Await { event, number });
        Ok(())
    })
}
