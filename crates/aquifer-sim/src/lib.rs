//! A simulated device for Aquifer: of any size, with no memory behind it unless that is asked for.
//!
//! It is there to prove the core. A program runs against it as against a real device, but in virtual time, from a seed: work
//! ends late and in another order across queues, calls fail, queues hang, the device is lost. A checker follows
//! who owns which bytes, and finds memory that is reused while it is still used.
//!
//! # Design
//!
//! - **No memory**, by default. A block is a range of addresses; nothing can be read there, and copies move no bytes: the
//!   host's end of one is never dereferenced. What is simulated is *when* and *where*, not *what*.
//! - **Content** ([`SimDesc::has_content`]). Memory of the host is behind the blocks, zero at first. A command moves its
//!   bytes at the moment at which it ends, all at once: who reads the destination before sees what was there, and who writes
//!   the source before sends what was written. One that is cancelled moves the bytes that its ticket counts, one that was
//!   told to fail none. What the system takes from purgeable blocks is written over. Kernels may have programs
//!   ([`Sim::launch_program`]), which say what ought to be there; a device that sees something else has read *stale* bytes
//!   ([`ViolationKind::StaleRead`]), and so has a host ([`Sim::expect_host`]).
//! - **Memory types** ([`SimDesc::memory_types`]): local to the device, pinned in the host's memory, unified.
//!   [`SimDesc::discrete`] and [`SimDesc::integrated`] are devices of the two usual kinds. Memory of the host that lies in a
//!   block is that block, also where a copy names it by the host's pointer: the checker sees it, and it is as fast. Pinned
//!   blocks are never purgeable, and no part of them is released: the driver refuses.
//! - **The link** ([`SimDesc::has_shared_link`]). Copies between the host's side and the device's go one at a time in each
//!   direction, first come first served; those from peers have a way of their own. Other engines have no limits: any number
//!   of queues run at full speed.
//! - **Peers** ([`Sim::peer`]). Several devices share a clock, a host, and the checker.
//! - **Virtual time.** The host has a clock. A driver's call moves it by what the call costs ([`Costs`]), and the test by
//!   what it likes ([`Sim::advance`]). Queues run meanwhile: a command begins when all before it on its queue has ended and
//!   what it waits for has come, after a delay drawn from the seed ([`Lateness`]), and takes a time that follows from its
//!   size or, for a kernel, from the seed. Waiting moves the clock to the event. Nothing looks at real time.
//! - **Determinism.** The same seed and the same calls give the same run: [`Sim::history`] is equal to the last entry. (Of
//!   calls by several threads the order is part of the run, and the simulation does not choose it.)
//! - **The hand.** [`Sim`] is the backend, and a clone of it is the test's hand on the same device: the clock, the faults,
//!   the books, the checker, and kernels of the user's own.
//! - **The checker** ([`Sim::claim`], [`Sim::violations`]) is told by the test what users hold, and by the schedule what
//!   runs when. Owners are numbered in the order of their claims; memory that nobody has claimed has an owner for
//!   each access. Which owner an access is for is settled when it is *enqueued*. Then, for each byte, all accesses of an older
//!   owner must have ended before the first of a newer one begins. Reads count as much as writes: a buffer that a new owner
//!   can read while an old one does was handed out too early, though nothing is spoilt. The order of one owner's own
//!   accesses is the user's matter. Work queued after a claim was given up counts as nobody's.
//! - **Addresses** come again, those of a destroyed block for the next block of the same size, as drivers do it. Blocks
//!   never touch: between two is a gap that no access may cross.
//! - **Purgeable blocks** ([`Purging`]). The system takes their memory at times drawn from the seed, when a new block would not
//!   fit otherwise, and when it is told to. What is taken is not in use any more. The checker lets nobody touch a purgeable block.
//!
//! - **Sparse blocks** ([`SimDesc::physical_page_bytes`], [`SimDesc::mapping_count_max`], [`SimDesc::sparse_bytes_max`]) of memory
//!   that the host does not see. A physical block has no address that a program could use. With content, a command moves the bytes
//!   of what is mapped when it *ends*; where nothing is, writes are lost. The checker follows bytes of memory, not addresses: what
//!   is used or claimed by addresses of a sparse block is what is mapped there when the work is enqueued or the claim made, and
//!   as long as either lasts that mapping must stay. So two owners of a byte by two addresses are found, and so is work by old
//!   addresses that runs beside or after work by new ones.
//!
//! What is not simulated: imported memory, and calls that block the host because memory is pageable.
//!
//! ```
//! use aquifer_backend::{Backend, BlockDesc};
//! use aquifer_sim::{Access, Kernel, Sim, SimDesc};
//!
//! let sim = Sim::new(SimDesc { seed: 7, ..SimDesc::default() });
//! let block = sim.create_block(&BlockDesc::new(64 << 20, 0)).unwrap();
//! let address = sim.device_address(&block).unwrap();
//! let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
//!
//! // A user works with its memory, gives it up, and the next one gets it too early, on another queue.
//! let first = sim.claim(address, 4096);
//! sim.launch(&one, Kernel::new([Access::write(address, 4096)]).lasting(1_000_000)).unwrap();
//! sim.give_up(first);
//! let _second = sim.claim(address, 4096);
//! sim.launch(&other, Kernel::new([Access::write(address, 4096)])).unwrap();
//! sim.run_all();
//! println!("{}", sim.violations()[0]);
//! # assert_eq!(sim.violations().len(), 1);
//! ```

mod addresses;
mod backend;
mod blocks;
mod check;
mod command;
mod content;
mod costs;
mod create;
mod desc;
mod faults;
mod hand;
mod program;
mod purge;
mod queue;
mod random;
mod schedule;
mod sim;
mod span;
mod sparse;
mod state;
mod violation;

pub use costs::{Costs, Linear};
pub use desc::{KernelTimes, Lateness, Purging, SimDesc};
pub use faults::{Call, Fault, FaultPlan, Recurrence};
pub use hand::{Access, AccessKind, Books, ClaimId, Kernel};
pub use program::KernelMemory;
pub use queue::{QueueId, SimQueue};
pub use schedule::Ran;
pub use sim::{Sim, SimBlock};
pub use violation::{Violation, ViolationKind};
