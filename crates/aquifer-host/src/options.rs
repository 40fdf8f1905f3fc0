//! What can be chosen of host memory.

use std::path::PathBuf;

/// How [`Host::with_options`](crate::Host::with_options) makes a backend. The default is what
/// [`Host::new`](crate::Host::new) makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOptions {
    /// The root of the file system whose `/proc` and `/sys` are read: `/` unless a test or a container has them elsewhere.
    pub root: PathBuf,
    /// Where pinned blocks (those of the second memory type) have their memory: on the NUMA node that has memory and is
    /// nearest to this. `None`: wherever the system puts it, which is most often near to the thread that creates the block.
    /// Linux only.
    pub pinned_near: Option<Near>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { root: PathBuf::from("/"), pinned_near: None }
    }
}

/// A place in the machine that memory can be near to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Near {
    /// A NUMA node, by its number.
    Node(u32),
    /// A device, by its address on the PCI bus as `lspci -D` and most drivers print it: `0000:17:00.0`. The domain may be
    /// longer or absent.
    PciDevice(String),
    /// A processor, by its number.
    Cpu(u32),
}
