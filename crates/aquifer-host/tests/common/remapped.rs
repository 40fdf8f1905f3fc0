//! Sparse and physical blocks for tests, which give them back.

#![allow(dead_code, reason = "no test uses all of it")]

use aquifer_backend::{Backend, BlockDesc, BlockRange, Capabilities, Error};
use aquifer_host::{Host, HostBlock};
use std::ptr::NonNull;

/// The host, if the system lets it map memory.
pub(crate) fn host() -> Option<Host> {
    let host = Host::new().unwrap();
    host.properties().capabilities.contains(Capabilities::SPARSE_BLOCKS).then_some(host)
}

pub(crate) fn sparse(host: &Host, bytes: u64) -> HostBlock {
    host.create_sparse_block(&BlockDesc::new(bytes, 0)).unwrap()
}

pub(crate) fn physical(host: &Host, bytes: u64) -> HostBlock {
    host.create_physical_block(&BlockDesc::new(bytes, 0)).unwrap()
}

/// Gives a block back that nothing uses any more.
pub(crate) fn destroy(host: &Host, block: HostBlock) {
    // SAFETY: the tests use no block after this, nor what was mapped behind one.
    unsafe { host.destroy_block(block) }.unwrap();
}

fn range(block: &HostBlock, offset: u64, bytes: u64) -> BlockRange<'_, HostBlock> {
    BlockRange { block, offset, bytes }
}

/// Maps a physical block of `bytes` bytes behind what nothing is mapped behind.
pub(crate) fn map(
    host: &Host,
    sparse: &HostBlock,
    offset: u64,
    physical: &HostBlock,
    bytes: u64,
) -> Result<(), Error> {
    // SAFETY: the tests keep to the block, map nothing twice behind the same addresses, and destroy the memory later.
    unsafe { host.map(range(sparse, offset, bytes), physical) }
}

pub(crate) fn unmap(host: &Host, sparse: &HostBlock, offset: u64, bytes: u64) -> Result<(), Error> {
    // SAFETY: the tests give what they have mapped, and do not use it meanwhile.
    unsafe { host.unmap(range(sparse, offset, bytes)) }
}

pub(crate) fn release(host: &Host, sparse: &HostBlock, offset: u64, bytes: u64) {
    // SAFETY: the tests give a part of what they have mapped, and do not use it meanwhile.
    unsafe { host.release_range(range(sparse, offset, bytes)) }.unwrap();
}

fn word(host: &Host, sparse: &HostBlock, offset: u64) -> NonNull<u64> {
    let start = host.host_pointer(sparse).unwrap();
    // SAFETY: the tests keep to the block.
    unsafe { start.add(offset as usize) }.cast()
}

/// Writes eight bytes to mapped memory.
pub(crate) fn write(host: &Host, sparse: &HostBlock, offset: u64, value: u64) {
    // SAFETY: memory is mapped there, the offset is a multiple of eight, and no other thread uses the memory.
    unsafe { word(host, sparse, offset).write(value) };
}

/// Reads eight bytes of mapped memory.
pub(crate) fn read(host: &Host, sparse: &HostBlock, offset: u64) -> u64 {
    // SAFETY: as in `write`.
    unsafe { word(host, sparse, offset).read() }
}
