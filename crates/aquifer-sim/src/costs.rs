//! What a driver's calls and a device's transfers cost in time.

use aquifer_backend::MappingCosts;

/// A time that grows with the size of what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// The time for nothing, in nanoseconds.
    pub base_ns: u64,
    /// The time for each GiB on top, in nanoseconds.
    pub gib_ns: u64,
}

impl Linear {
    /// No time at all.
    pub const ZERO: Self = Self { base_ns: 0, gib_ns: 0 };

    /// The time for so many bytes, in nanoseconds.
    #[must_use]
    pub fn ns(self, bytes: u64) -> u64 {
        scaled(bytes, self.gib_ns, 1 << 30).saturating_add(self.base_ns)
    }
}

/// `bytes * factor / divisor` where the product may be large; as much as fits.
fn scaled(bytes: u64, factor: u64, divisor: u64) -> u64 {
    let product = u128::from(bytes) * u128::from(factor) / u128::from(divisor);
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// What everything costs. Times of calls are the host's; the device goes on meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// [`create_block`](aquifer_backend::Backend::create_block).
    pub create: Linear,
    /// [`destroy_block`](aquifer_backend::Backend::destroy_block), without the wait.
    pub destroy: Linear,
    /// Whether destroying a block first waits until all queues are idle. Queues that hang are not waited for.
    pub destroy_waits_for_all_queues: bool,
    /// [`release_range`](aquifer_backend::Backend::release_range).
    pub release: Linear,
    /// [`create_sparse_block`](aquifer_backend::Backend::create_sparse_block), in nanoseconds.
    pub create_sparse_ns: u64,
    /// Destroying a sparse block, in nanoseconds, besides [`Costs::unmap_ns`] for each mapping that is left in it. It waits for
    /// nothing.
    pub destroy_sparse_ns: u64,
    /// [`create_physical_block`](aquifer_backend::Backend::create_physical_block), in nanoseconds.
    pub create_physical_ns: u64,
    /// Destroying a physical block. It waits for nothing.
    pub destroy_physical: Linear,
    /// [`map`](aquifer_backend::Backend::map), in nanoseconds, until the device sees it.
    pub map_ns: u64,
    /// [`unmap`](aquifer_backend::Backend::unmap), in nanoseconds.
    pub unmap_ns: u64,
    /// [`make_purgeable`](aquifer_backend::Backend::make_purgeable) and
    /// [`make_nonpurgeable`](aquifer_backend::Backend::make_nonpurgeable), in nanoseconds each.
    pub purge_ns: u64,
    /// [`budget`](aquifer_backend::Backend::budget), in nanoseconds.
    pub budget_ns: u64,
    /// [`create_queue`](aquifer_backend::Backend::create_queue), in nanoseconds.
    pub create_queue_ns: u64,
    /// Enqueuing a copy on the device, in nanoseconds.
    pub enqueue_copy_ns: u64,
    /// Enqueuing a copy from or to the host, in nanoseconds.
    pub enqueue_host_copy_ns: u64,
    /// Enqueuing a fill, in nanoseconds.
    pub enqueue_fill_ns: u64,
    /// Launching a kernel, in nanoseconds.
    pub launch_ns: u64,
    /// [`signal`](aquifer_backend::Backend::signal), in nanoseconds.
    pub signal_ns: u64,
    /// From when a queue passes a marker until the host can see its value, in nanoseconds. Other queues see it at once.
    pub signal_seen_ns: u64,
    /// [`completed`](aquifer_backend::Backend::completed), and the least that
    /// [`wait`](aquifer_backend::Backend::wait) takes, in nanoseconds.
    pub completed_ns: u64,
    /// [`wait_on_queue`](aquifer_backend::Backend::wait_on_queue), in nanoseconds.
    pub wait_on_queue_ns: u64,
    /// What each copy and fill takes on the device besides its bytes, in nanoseconds.
    pub transfer_base_ns: u64,
    /// Bytes that a copy on the device moves in a second; 0: no time at all.
    pub copy_bytes_per_second: u64,
    /// Bytes that a copy from or to memory on the host's side moves in a second; 0: no time at all.
    pub host_copy_bytes_per_second: u64,
    /// The same for a copy to the device from the host's memory that is in no block; `None`: no other.
    pub pageable_upload_bytes_per_second: Option<u64>,
    /// The same for a copy from the device to the host's memory that is in no block; `None`: no other.
    pub pageable_download_bytes_per_second: Option<u64>,
    /// Bytes that a copy from a peer's memory moves in a second; 0: no time at all.
    pub peer_copy_bytes_per_second: u64,
    /// Bytes that a fill writes in a second; 0: no time at all.
    pub fill_bytes_per_second: u64,
}

impl Costs {
    /// An NVIDIA H200, driver 580, CUDA 13, each figure measured there with the call that is named, if one is.
    pub const H200: Self = Self {
        // cudaMalloc: 32 us, 95 us for 1 GiB.
        create: Linear { base_ns: 32_000, gib_ns: 63_000 },
        // cudaFree: 28 us, 322 us for 1 GiB; behind a kernel of 60 ms it took 60 ms.
        destroy: Linear { base_ns: 28_000, gib_ns: 294_000 },
        destroy_waits_for_all_queues: true,
        // cuMemUnmap and cuMemRelease: 17 + 11 us for 2 MiB, 42 + 374 us for 1 GiB.
        release: Linear { base_ns: 28_000, gib_ns: 388_000 },
        // cuMemAddressReserve and cuMemAddressFree. Chosen, not measured: what they do is done on the host alone.
        create_sparse_ns: 2_000,
        destroy_sparse_ns: 2_000,
        // cuMemCreate: 8 to 13 us, of whatever size.
        create_physical_ns: 11_000,
        // cuMemRelease: 11 us for 2 MiB, up to 47 us for 128 MiB, and more for more (374 us for 1 GiB in the one series that had it).
        destroy_physical: Linear { base_ns: 11_000, gib_ns: 288_000 },
        // cuMemMap: 1 us; cuMemSetAccess: 26 us, of whatever size.
        map_ns: 27_000,
        // cuMemUnmap: 19 us.
        unmap_ns: 19_000,
        // CUDA has no such call. Chosen, not measured: a call into the kernel.
        purge_ns: 5_000,
        // cuMemGetInfo: 4.4 us.
        budget_ns: 4_400,
        // cuStreamCreate: 34 us.
        create_queue_ns: 34_000,
        // cuMemcpyDtoDAsync: 4.2 us.
        enqueue_copy_ns: 4_200,
        // cuMemcpyHtoDAsync from pinned memory: 1.4 us.
        enqueue_host_copy_ns: 1_400,
        // cuMemsetD8Async: 0.85 us.
        enqueue_fill_ns: 850,
        // cuLaunchKernel: 3.6 us.
        launch_ns: 3_600,
        // cuStreamWriteValue64 into pinned memory: 0.81 us a call, seen by the host 3.8 us later.
        signal_ns: 810,
        signal_seen_ns: 3_800,
        // cudaEventQuery: 0.20 us. A load of pinned memory is less, but to poll for nothing would stop the clock.
        completed_ns: 200,
        // cuStreamWaitEvent: 0.12 to 0.2 us.
        wait_on_queue_ns: 200,
        // cuMemsetD8Async of 4 KiB, a hundred in a row: 1.6 us each.
        transfer_base_ns: 1_600,
        // cuMemcpyDtoDAsync of 1 GiB: 511 us; counted as read and written it is twice this.
        copy_bytes_per_second: 2_101_000_000_000,
        // cuMemcpyHtoDAsync from pinned memory: 55.3 GB/s.
        host_copy_bytes_per_second: 55_300_000_000,
        // As if all of the host's memory were pinned; `H200_PAGEABLE` tells them apart.
        pageable_upload_bytes_per_second: None,
        pageable_download_bytes_per_second: None,
        // cuMemcpyPeerAsync of 1 GiB over NVLink, access enabled: 396 GB/s.
        peer_copy_bytes_per_second: 396_000_000_000,
        // cuMemsetD8Async of 1 GiB: 236 us.
        fill_bytes_per_second: 4_553_000_000_000,
    };

    /// As [`Costs::H200`], and copies from and to pageable memory are as slow as they were measured: 7.8 GB/s to the device and
    /// 15.2 back. (That the driver makes the host wait for such copies is not simulated.)
    pub const H200_PAGEABLE: Self = Self {
        pageable_upload_bytes_per_second: Some(7_800_000_000),
        pageable_download_bytes_per_second: Some(15_200_000_000),
        ..Self::H200
    };

    /// A device that shares the host's memory. Chosen, not measured: copies and fills at 100 GB/s, whatever side they name,
    /// the rest as on the H200, but that nothing waits when a block is destroyed.
    pub const INTEGRATED: Self = Self {
        destroy_waits_for_all_queues: false,
        copy_bytes_per_second: 100_000_000_000,
        host_copy_bytes_per_second: 100_000_000_000,
        peer_copy_bytes_per_second: 100_000_000_000,
        fill_bytes_per_second: 100_000_000_000,
        ..Self::H200
    };

    /// Nothing takes any time, so that work is done when it is enqueued, unless lateness is asked for. Who then polls
    /// [`completed`](aquifer_backend::Backend::completed) in a loop polls for ever: only waiting moves the clock.
    pub const FREE: Self = Self {
        create: Linear::ZERO,
        destroy: Linear::ZERO,
        destroy_waits_for_all_queues: false,
        release: Linear::ZERO,
        create_sparse_ns: 0,
        destroy_sparse_ns: 0,
        create_physical_ns: 0,
        destroy_physical: Linear::ZERO,
        map_ns: 0,
        unmap_ns: 0,
        purge_ns: 0,
        budget_ns: 0,
        create_queue_ns: 0,
        enqueue_copy_ns: 0,
        enqueue_host_copy_ns: 0,
        enqueue_fill_ns: 0,
        launch_ns: 0,
        signal_ns: 0,
        signal_seen_ns: 0,
        completed_ns: 0,
        wait_on_queue_ns: 0,
        transfer_base_ns: 0,
        copy_bytes_per_second: 0,
        host_copy_bytes_per_second: 0,
        pageable_upload_bytes_per_second: None,
        pageable_download_bytes_per_second: None,
        peer_copy_bytes_per_second: 0,
        fill_bytes_per_second: 0,
    };

    /// What mapping costs for physical blocks of so many bytes.
    pub(crate) fn of_mapping(&self, bytes: u64) -> MappingCosts {
        MappingCosts {
            create_ns: self.create_physical_ns,
            map_ns: self.map_ns,
            unmap_ns: self.unmap_ns,
            destroy_ns: self.destroy_physical.ns(bytes),
        }
    }

    /// How long the device is at a transfer, in nanoseconds.
    pub(crate) fn transfer_ns(&self, bytes: u64, bytes_per_second: u64) -> u64 {
        if bytes_per_second == 0 {
            return self.transfer_base_ns;
        }
        scaled(bytes, 1_000_000_000, bytes_per_second).saturating_add(self.transfer_base_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_were_measured() {
        let costs = Costs::H200;
        assert_eq!((costs.create.ns(0), costs.create.ns(1 << 30)), (32_000, 95_000));
        assert_eq!((costs.destroy.ns(0), costs.destroy.ns(1 << 30)), (28_000, 322_000));
        let destroy_ns = costs.destroy_physical;
        assert_eq!((destroy_ns.ns(0), destroy_ns.ns(128 << 20)), (11_000, 47_000));
        let copy_ns = costs.transfer_ns(1 << 30, costs.copy_bytes_per_second);
        assert!((505_000..520_000).contains(&copy_ns), "{copy_ns}");
        assert_eq!(Costs::FREE.transfer_ns(1 << 40, 0), 0);
        assert_eq!(Linear { base_ns: 1, gib_ns: u64::MAX }.ns(u64::MAX), u64::MAX);
    }
}
