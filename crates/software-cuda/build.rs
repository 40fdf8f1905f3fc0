//! Gives the library the name by which CUDA programs ask for the driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    // glibc answers a request for a loaded library's soname with that library, whatever else is on the disk.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    // Where the library looks for its other name (`loader.rs`): before any search path of the environment, hence no RUNPATH.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--disable-new-dtags,-rpath,$ORIGIN/software-cuda");
}
