//! The library's own interface, by which tests (`loader.rs`) reach the driver that is loaded. Both are always built together.

use crate::abi::{Code, In, Out};
use crate::context::contexts_of;
use crate::driver::{configure, driver};
use crate::faults;
use crate::settings::{Live, Settings};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::Ordering;

/// The interface's functions, in one table.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Control {
    /// Whether it was in time.
    pub(crate) configure: extern "C" fn(In<Settings>) -> bool,
    pub(crate) calls: extern "C" fn(Text, bool) -> u64,
    pub(crate) fail: extern "C" fn(Text, u64, c_int, bool),
    pub(crate) forget: extern "C" fn(),
    /// Loses a device's contexts; whether there is such a device.
    pub(crate) lose: extern "C" fn(c_int, c_int) -> bool,
    /// What other processes have of a device; whether there is such a device.
    pub(crate) set_foreign: extern "C" fn(c_int, u64) -> bool,
    /// Of a device, or of all for a negative ordinal.
    pub(crate) live: extern "C" fn(c_int, Out<Live>),
    /// Answers requests for a library of this name with this one; whether it could.
    pub(crate) claim: extern "C" fn(Text) -> bool,
}

/// Text of the caller's, which ends with a zero.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub(crate) fn new(text: &CStr) -> Self {
        Self(text.as_ptr())
    }

    fn with<T>(self, use_it: impl FnOnce(&str) -> T) -> T {
        // SAFETY: made of a `CStr` that the caller keeps for as long as the call lasts.
        let text = unsafe { CStr::from_ptr(self.0) };
        use_it(text.to_str().unwrap_or_default())
    }
}

/// What [`Control`] is found by.
#[unsafe(no_mangle)]
static software_cuda_control: Control = Control {
    configure: configure_by,
    calls: calls_of,
    fail: fail_by,
    forget: forget_all,
    lose: lose_device,
    set_foreign,
    live: live_of,
    claim: claim_name,
};

extern "C" fn configure_by(settings: In<Settings>) -> bool {
    settings.get().is_ok_and(configure)
}

extern "C" fn calls_of(function: Text, this_thread_only: bool) -> u64 {
    function.with(|function| faults::calls(function, this_thread_only))
}

extern "C" fn fail_by(function: Text, nth: u64, code: c_int, this_thread_only: bool) {
    function.with(|function| faults::fail(function, nth, Code(code), this_thread_only));
}

extern "C" fn forget_all() {
    faults::forget();
}

extern "C" fn lose_device(device: c_int, code: c_int) -> bool {
    let Ok(driver) = driver() else { return false };
    let Ok(device) = driver.device(device) else { return false };
    contexts_of(driver, device.ordinal).iter().for_each(|context| context.lose(Code(code)));
    true
}

extern "C" fn set_foreign(device: c_int, bytes: u64) -> bool {
    let device = driver().and_then(|driver| driver.device(device));
    device.map(|device| device.foreign.store(bytes, Ordering::SeqCst)).is_ok()
}

extern "C" fn live_of(device: c_int, live: Out<Live>) {
    let counts = driver().map(|driver| driver.live(usize::try_from(device).ok())).unwrap_or_default();
    let _ = live.put(counts);
}

/// The system looks where the library that asks says (`build.rs`), so this library asks for itself: there is a link to it.
extern "C" fn claim_name(name: Text) -> bool {
    name.with(|name| {
        // SAFETY: what is loaded is this library, whose constructors have run.
        let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) };
        let Ok(library) = library else { return false };
        // SAFETY: the address is compared, not followed.
        let control = unsafe { library.get::<*const Control>(b"software_cuda_control\0") };
        let is_this = control.is_ok_and(|found| std::ptr::eq(*found, &raw const software_cuda_control));
        std::mem::forget(library);
        is_this
    })
}
