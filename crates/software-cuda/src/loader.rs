//! The tests' side: loads the driver in the place of the machine's own, and speaks to it.

use crate::abi::{In, Out};
use crate::control::{Control, Text};
use crate::settings::{Live, Settings};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CString, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The file that this package's library is built as.
const FILE: &str = "libsoftware_cuda.so";
/// Where the link for the second name is, beside the library (`build.rs`).
const LINKS: &str = "software-cuda";
const SECOND_NAME: &str = "libcuda.so.1";

struct Loaded {
    library: Library,
    control: Control,
}

/// Where the library may be: with what Cargo built for a test, a binary, an example or a documentation's test.
fn candidates() -> Vec<PathBuf> {
    let built = Path::new(env!("OUT_DIR")).ancestors().nth(3).map(Path::to_owned);
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let above = beside.as_deref().and_then(Path::parent).map(Path::to_owned);
    let places = [beside, above, built].into_iter().flatten();
    // Only the copy in `deps` is sure to be as new as the test.
    let all: Vec<_> = places.flat_map(|place| [place.join("deps").join(FILE), place.join(FILE)]).collect();
    all.into_iter().filter(|path| path.is_file()).collect()
}

fn load() -> Loaded {
    let path = candidates().into_iter().next().unwrap_or_else(|| {
        panic!("{FILE} is not beside this program: build it with the package software-cuda");
    });
    let link = path.with_file_name(LINKS).join(SECOND_NAME);
    // Another process may be making the same; what comes of it is checked below.
    let _ = std::fs::create_dir_all(path.with_file_name(LINKS));
    let _ = std::os::unix::fs::symlink(Path::new("..").join(FILE), &link);
    // SAFETY: this package's library; its constructors are the standard library's.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = library.unwrap_or_else(|error| panic!("{FILE} cannot be loaded: {error}"));
    // SAFETY: the library exports a value of this type by this name, built with this file.
    let control = unsafe { library.get::<*const Control>(b"software_cuda_control\0") };
    let control = *control.expect("the library has its own interface");
    // SAFETY: as above; it lives as long as the library, which is never unloaded.
    let control = unsafe { *control };
    assert!(
        (control.claim)(Text::new(&text(SECOND_NAME))),
        "{SECOND_NAME} is taken: CUDA's own driver was loaded before software_cuda::install()"
    );
    Loaded { library, control }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("names have no zeros")
}

fn loaded() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(load)
}

/// The driver that is loaded, and a function's name, which it must have: a misspelt one would be counted never.
fn named(function: &str) -> (&'static Control, CString) {
    let Loaded { library, control } = loaded();
    let name = text(function);
    // SAFETY: the address is not used.
    let found = unsafe { library.get::<*const ()>(name.as_bytes_with_nul()) };
    assert!(found.is_ok(), "the driver has no function {function}");
    (control, name)
}

/// Loads the driver, once for the process: from now on whoever opens `libcuda.so` or `libcuda.so.1` gets it, even if the machine
/// has one of its own.
///
/// # Panics
/// If the library is not beside the program, or the machine's own was loaded before.
pub fn install() {
    loaded();
}

/// Installs the driver and says what it is to be like. `false`: it is too late, `cuInit` has come before.
///
/// # Panics
/// As [`install`].
#[must_use]
pub fn configure(settings: &Settings) -> bool {
    (loaded().control.configure)(In::new(settings))
}

/// How often a function was called, by any thread, failures included.
///
/// # Panics
/// If there is no such function; as [`install`].
#[must_use]
pub fn calls(function: &str) -> u64 {
    let (control, name) = named(function);
    (control.calls)(Text::new(&name), false)
}

/// As [`calls`], by this thread alone.
///
/// # Panics
/// As [`calls`].
#[must_use]
pub fn calls_of_this_thread(function: &str) -> u64 {
    let (control, name) = named(function);
    (control.calls)(Text::new(&name), true)
}

/// The `nth` call of a function from now, by any thread, answers `code` and does nothing: 0 is the next call.
///
/// # Panics
/// As [`calls`].
pub fn fail(function: &str, nth: u64, code: i32) {
    let (control, name) = named(function);
    (control.fail)(Text::new(&name), nth, code, false);
}

/// As [`fail`], where only this thread's calls count and fail.
///
/// # Panics
/// As [`calls`].
pub fn fail_on_this_thread(function: &str, nth: u64, code: i32) {
    let (control, name) = named(function);
    (control.fail)(Text::new(&name), nth, code, true);
}

/// Forgets the failures that have been asked for and have not happened.
///
/// # Panics
/// As [`install`].
pub fn forget_failures() {
    (loaded().control.forget)();
}

/// Loses the contexts that a device has now: their work is not done, and every call that needs one answers `code`, until the
/// context is released for the last time, reset or destroyed.
///
/// # Panics
/// If there is no such device, or `cuInit` was not called; as [`install`].
pub fn lose_device(device: usize, code: i32) {
    assert!((loaded().control.lose)(ordinal(device), code), "there is no device {device}");
}

/// Other processes have this many bytes of a device from now on.
///
/// # Panics
/// As [`lose_device`].
pub fn set_foreign_bytes(device: usize, bytes: u64) {
    assert!((loaded().control.set_foreign)(ordinal(device), bytes), "there is no device {device}");
}

/// What has not been given back, of all devices.
///
/// # Panics
/// As [`install`].
#[must_use]
pub fn live() -> Live {
    live_by(-1)
}

/// As [`live`], of one device; reservations are all.
///
/// # Panics
/// As [`install`].
#[must_use]
pub fn live_on(device: usize) -> Live {
    live_by(ordinal(device))
}

fn live_by(device: c_int) -> Live {
    let mut live = Live::default();
    (loaded().control.live)(device, Out::new(&mut live));
    live
}

fn ordinal(device: usize) -> c_int {
    c_int::try_from(device).expect("devices are few")
}
