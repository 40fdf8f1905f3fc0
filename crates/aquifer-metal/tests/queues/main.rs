//! Queues of Metal, beyond what every backend must do: order where nothing is ordered by itself, late and failing command buffers, a
//! device that goes, a program's own work, holds, copies through staging buffers, and many threads.

#[path = "../common/mod.rs"]
mod common;

#[cfg(not(target_vendor = "apple"))]
mod crowd;
#[cfg(not(target_vendor = "apple"))]
mod failure;
mod hold;
#[cfg(not(target_vendor = "apple"))]
mod late;
#[cfg(not(target_vendor = "apple"))]
mod lost;
mod order;
mod submit;
mod transfer;
