//! A simulated device for Aquifer: of any size, with no memory behind it.
//!
//! It is there to prove the core. A program runs against it as against a real device, but in virtual time, from a seed: work
//! ends late and in another order across queues, calls fail, queues hang, the device is lost. A checker follows
//! who owns which bytes, and finds memory that is reused while it is still used.
//!
//! # Design
//!
//! - **No memory.** A block is a range of addresses; nothing can be read there, and copies move no bytes: the host's end of
//!   one is never dereferenced. What is simulated is *when* and *where*, not *what*.
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
//! What is not simulated: memory that the host can see, peers, and the limits of engines (any number of queues run at full speed).
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

mod backend;
mod check;
mod costs;
mod desc;
mod faults;
mod hand;
mod purge;
mod queue;
mod random;
mod schedule;
mod state;
mod violation;

pub use backend::{Sim, SimBlock};
pub use costs::{Costs, Linear};
pub use desc::{KernelTimes, Lateness, Purging, SimDesc};
pub use faults::{Call, Fault, FaultPlan, Recurrence};
pub use hand::{Access, AccessKind, Books, ClaimId, Kernel};
pub use queue::{QueueId, SimQueue};
pub use schedule::Ran;
pub use violation::{Violation, ViolationKind};
