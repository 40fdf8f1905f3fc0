//! Growing a pool whose memory is mapped behind addresses: a run of addresses is put together from free memory, and memory is
//! made for what is missing.
//!
//! Everything here happens under the pool's growth lock. Allocations that need no mapping go on meanwhile, and may take what is
//! being put together; then it is tried again.

use super::config::Policy;
use super::growth::ATTEMPTS_MAX;
use super::shared::Shared;
use super::shrink::Leaving;
use super::typed_pool::Growing;
use crate::pool::{Lane, Place, Request};
use crate::range::{BlockIndex, Composition, GRANULE_BYTES, IdleBlock, QueueIndex, Terms};
use crate::sync::{AtomicU64, Ordering};
use aquifer_backend::{Backend, BlockDesc, Capabilities, Error, ErrorKind, MappingCosts, Properties};
use std::ops::Range;

/// New memory comes in physical blocks of this many bytes, or of a physical page if that is more. A call costs the same whatever the
/// size, so 2 MiB take twice as long to map; from 8 MiB on more memory is lost in blocks that are used in part (ARCHITECTURE.md has
/// the figures).
const PHYSICAL_BYTES: u64 = 4 << 20;
/// Where the driver's time counts beside memory ([`Policy::Automatic`]) they have this share of all that is reserved instead, between these
/// bounds, and no more than so small a share of the budget: a third of the time for 1 % of memory (ARCHITECTURE.md). Not when memory is scarce.
const COARSE_SHARE: u64 = 320;
const COARSE_BYTES_MIN: u64 = 8 << 20;
const COARSE_BYTES_MAX: u64 = 64 << 20;
const COARSE_SHARE_OF_BUDGET: u64 = 1024;
/// It is made in multiples of this many bytes, or of a physical page if that is more; of pages alone where so few would fit.
const UNIT_BYTES: u64 = 2 << 20;
const UNITS_MIN: u64 = 64;
/// While a pool has no more than this share of the budget, small requests make that share of what it has at a time: many more are to be expected,
/// as all threads' caches fill.
const YOUNG_SHARE: u64 = 32;
const GROWTH_SHARE: u64 = 32;
/// What to map memory that there is counts, where more memory is worth having: more than to make and map new memory.
const REMAP_WEIGHT: u64 = 4;
/// Memory is scarce when no more than this share of the budget is left.
const SCARCE_SHARE: u64 = 16;
/// How often a run is tried to be put together when memory is short.
const COMPOSE_ROUNDS: u32 = 3;
/// Where the backend does not say: what matters is that to make a block takes longer than to map one.
const UNKNOWN_COSTS: MappingCosts = MappingCosts { create_ns: 2, map_ns: 1, unmap_ns: 1, destroy_ns: 2 };
/// What a large request needs comes in so many physical blocks, unless each were more than twice as large as most are and than this
/// share of all that is reserved.
const PIECES: u64 = 128;
const PIECES_OF_ALL: u64 = 4096;

/// What remapping a pool's memory came to.
#[derive(Debug, Default)]
pub(super) struct RemappingCounters {
    pub(super) compositions: AtomicU64,
    /// Mappings of memory that had been made before,
    pub(super) remapped: AtomicU64,
    pub(super) remapped_bytes: AtomicU64,
    /// Mappings that went with their sparse block.
    pub(super) dropped_mappings: AtomicU64,
}

impl RemappingCounters {
    fn count_remapped(&self, bytes: u64) {
        self.remapped.fetch_add(1, Ordering::Relaxed);
        self.remapped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Whether the pools of memory types that can be sparse are elastic.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] if they are to be and cannot.
pub(super) fn is_elastic(policy: Policy, properties: &Properties) -> Result<bool, Error> {
    let page_bytes = properties.physical_page_bytes;
    let lack = if !properties.capabilities.contains(Capabilities::SPARSE_BLOCKS) {
        "has no sparse blocks".to_owned()
    } else if !page_bytes.is_power_of_two() || !page_bytes.is_multiple_of(properties.block_granularity_bytes)
    {
        format!(
            "has physical pages of {page_bytes} bytes, which is no power of two, or not whole granules of blocks"
        )
    } else if properties.block_bytes_max < page_bytes {
        format!("has physical pages of {page_bytes} bytes, more than the largest block")
    } else {
        return Ok(
            policy == Policy::Elastic || policy == Policy::Automatic && properties.mapping_costs.is_some()
        );
    };
    if policy != Policy::Elastic {
        return Ok(false);
    }
    let message = format!(
        "the {} backend {lack} on {}; use Policy::Automatic or Policy::Blocks",
        properties.backend, properties.device
    );
    Err(Error::new(ErrorKind::Unsupported, "Policy::Elastic", message))
}

/// Whether little is left of a budget.
fn is_scarce(budget_bytes: u64, reserved_bytes: u64) -> bool {
    budget_bytes.saturating_sub(reserved_bytes) < budget_bytes / SCARCE_SHARE
}

/// What memory is short of.
#[derive(Debug)]
pub(super) enum Shortage {
    /// So many bytes are not left of the budget.
    Budget(u64),
    /// The driver has no more.
    Driver(Error),
}

/// What came of an attempt to put a run together.
pub(super) enum Composed {
    /// It is mapped behind a sparse block, and the pool is yet to know: physical blocks, and what part is memory that was just made.
    Done {
        sparse: BlockIndex,
        mapped: Vec<BlockIndex>,
        fresh: Range<u64>,
    },
    Short(Shortage),
    /// The driver has no more addresses or mappings.
    NoMappings,
}

/// What came of an attempt to serve a request from a pool whose memory is mapped.
#[derive(Debug)]
pub(super) enum Elastic {
    /// Here it is; whether it is memory fresh from the driver, and cleared.
    Placed(Place, bool),
    Short(Shortage),
    /// The driver has no more addresses or mappings.
    NoMappings,
}

impl<B: Backend> Shared<B> {
    /// Serves a request from memory that is mapped for it, unless memory or mappings are short.
    pub(super) fn grow_elastic(
        &self,
        growing: &mut Growing<'_, B::Block>,
        lane: &Lane,
        request: Request,
    ) -> Result<Elastic, Error> {
        let (slab_bytes, bytes) = (growing.pool.range_bytes(request), growing.pool.bytes(request));
        if self.take_back(growing, bytes)
            && let Some(place) = growing.pool.allocate_anywhere(lane, request)
        {
            return Ok(Elastic::Placed(place, false));
        }
        let mut outcome = self.grow_elastic_for(growing, lane, request, slab_bytes)?;
        if slab_bytes > bytes && !matches!(outcome, Elastic::Placed(..)) {
            outcome = self.grow_elastic_for(growing, lane, request, bytes)?;
        }
        Ok(outcome)
    }

    /// Takes back memory that was given back in part, for which the driver need not be called. False if there is none for a request of
    /// `bytes`, or not so much left of the budget.
    fn take_back(&self, growing: &mut Growing<'_, B::Block>, bytes: u64) -> bool {
        let ledger = &self.ledgers[growing.heap_index];
        let mut taken_bytes = 0;
        // In the last one what is free may lie apart; more than twice as much is not looked at.
        while taken_bytes < 2 * bytes {
            let Some((physical, returned_bytes)) = growing.pool.most_returned(bytes) else { break };
            if !ledger.charge(returned_bytes) {
                break;
            }
            ledger.confirm(returned_bytes);
            growing.pool.take_back(physical);
            taken_bytes += returned_bytes;
        }
        taken_bytes > 0
    }

    fn grow_elastic_for(
        &self,
        growing: &mut Growing<'_, B::Block>,
        lane: &Lane,
        request: Request,
        bytes: u64,
    ) -> Result<Elastic, Error> {
        let queue = growing.pool.composing_queue(lane, request);
        for _ in 0..ATTEMPTS_MAX {
            let (sparse, mapped, fresh) =
                match self.compose(growing, queue, request, bytes, &mut Vec::new())? {
                    Composed::Done { sparse, mapped, fresh } => (sparse, mapped, fresh),
                    Composed::Short(shortage) => return Ok(Elastic::Short(shortage)),
                    Composed::NoMappings => return Ok(Elastic::NoMappings),
                };
            if let Some(place) = growing.pool.allocate_composed(lane, request, sparse, &mapped) {
                let end = place.offset + growing.pool.bytes(request);
                let is_fresh = place.block() == sparse && fresh.start <= place.offset && end <= fresh.end;
                let is_zeroed = self.backend.properties().capabilities.contains(Capabilities::ZEROED_BLOCKS);
                return Ok(Elastic::Placed(place, is_fresh && is_zeroed));
            }
        }
        Ok(Elastic::NoMappings)
    }

    /// Puts a run of `bytes` bytes together for a request, of free memory and of what `queue` may have, as far as budget and driver
    /// allow. What has been mapped, and the physical blocks that have been `made`, stay, unless the driver has no more: then what nobody
    /// uses is given back.
    pub(super) fn compose(
        &self,
        growing: &mut Growing<'_, B::Block>,
        queue: QueueIndex,
        request: Request,
        bytes: u64,
        made: &mut Vec<BlockIndex>,
    ) -> Result<Composed, Error> {
        let terms = self.terms(growing, request);
        let way = growing.pool.compose(queue, request, bytes, terms);
        let shortage = match self.charge_and_carry_out(growing, request, &way, made)? {
            Composed::Short(shortage) => shortage,
            outcome => return Ok(outcome),
        };
        let mut has_made_room = self.make_room_for(growing, &shortage);
        // What has been made so far is among what is free now; small requests may have large blocks too, and new memory comes in
        // pages.
        let unit_bytes = self.backend.properties().physical_page_bytes;
        let terms = Terms { unit_bytes, block_bytes: u64::MAX, spare_bytes: 0, ..terms };
        let is_aligned = request.alignment() > GRANULE_BYTES;
        let mut last = (way, shortage);
        for round in 0..COMPOSE_ROUNDS {
            if round > 0 {
                // What is free in whole blocks may be of use only as new memory, in one piece. What goes for that may be just what
                // the next way would have been made of; so in the end all goes.
                let is_last = round + 1 == COMPOSE_ROUNDS;
                let level = if is_last { 0 } else { self.level_for(growing.heap_index, &last.1) };
                has_made_room = self.release_down_to(growing, level) > 0;
                made.retain(|&index| growing.pool.is_physical(index));
            }
            let way = if is_aligned {
                growing.pool.compose_from_start(queue, bytes, terms)
            } else {
                growing.pool.compose(queue, request, bytes, terms)
            };
            if way == last.0 && !has_made_room {
                continue;
            }
            let mut made_now = Vec::new();
            let outcome = self.charge_and_carry_out(growing, request, &way, &mut made_now);
            made.append(&mut made_now);
            match outcome? {
                Composed::Short(shortage) => last = (way, shortage),
                outcome => return Ok(outcome),
            }
        }
        if matches!(last.1, Shortage::Driver(_)) {
            // The last round has emptied the pool before it tried, so this is what it made in vain: all that the device had, which others
            // on it may want.
            self.release_down_to(growing, 0);
            made.retain(|&index| growing.pool.is_physical(index));
        }
        Ok(Composed::Short(last.1))
    }

    fn charge_and_carry_out(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        way: &Composition,
        made: &mut Vec<BlockIndex>,
    ) -> Result<Composed, Error> {
        let ledger = &self.ledgers[growing.heap_index];
        if way.new_bytes > 0 && !ledger.charge(way.new_bytes) {
            return Ok(Composed::Short(Shortage::Budget(way.new_bytes)));
        }
        let mut pending = way.new_bytes;
        let outcome = self.carry_out(growing, request, way, &mut pending, made);
        ledger.refund(pending);
        outcome
    }

    /// What mapping costs, in what new memory comes, and whether there is some to spare: reserved bytes may be a little above the
    /// peak of used bytes, unless the budget is nearly spent.
    fn terms(&self, growing: &Growing<'_, B::Block>, request: Request) -> Terms {
        let Properties { physical_page_bytes, mapping_costs, .. } = *self.backend.properties();
        let MappingCosts { create_ns, map_ns, .. } = mapping_costs.unwrap_or(UNKNOWN_COSTS);
        let ledger = &self.ledgers[growing.heap_index];
        let (budget_bytes, reserved_bytes) = (ledger.budget_bytes(), ledger.reserved_bytes());
        let is_scarce = is_scarce(budget_bytes, reserved_bytes);
        let unit_bytes = if budget_bytes < UNITS_MIN * UNIT_BYTES {
            1
        } else if self.is_coarse && request.is_cached() && reserved_bytes < budget_bytes / YOUNG_SHARE {
            (reserved_bytes / GROWTH_SHARE / UNIT_BYTES * UNIT_BYTES).clamp(UNIT_BYTES, COARSE_BYTES_MAX / 4)
        } else {
            UNIT_BYTES
        };
        let remapped_bytes =
            (self.is_coarse && !is_scarce).then(|| growing.remapping.remapped_bytes.load(Ordering::Relaxed));
        let (spare_bytes, is_worth_more) = growing.pool.spare_bytes(remapped_bytes);
        Terms {
            unit_bytes: unit_bytes.next_multiple_of(physical_page_bytes),
            block_bytes: self
                .physical_bytes(growing.heap_index, request)
                .next_multiple_of(physical_page_bytes),
            create_ns,
            map_ns,
            remap_weight: if is_worth_more { REMAP_WEIGHT } else { 1 },
            spare_bytes: if is_scarce { 0 } else { spare_bytes },
        }
    }

    /// Of how many bytes new physical blocks are, unless the request needs larger ones. What small requests use in part stays small: one of them
    /// keeps all of it.
    fn physical_bytes(&self, heap_index: usize, request: Request) -> u64 {
        let (budget_bytes, reserved_bytes) =
            (self.ledgers[heap_index].budget_bytes(), self.ledgers[heap_index].reserved_bytes());
        if !self.is_coarse || request.is_cached() || is_scarce(budget_bytes, reserved_bytes) {
            return PHYSICAL_BYTES;
        }
        let share = (reserved_bytes / COARSE_SHARE).clamp(COARSE_BYTES_MIN, COARSE_BYTES_MAX);
        let whole_units = share.min(budget_bytes / COARSE_SHARE_OF_BUDGET) / UNIT_BYTES * UNIT_BYTES;
        whole_units.max(PHYSICAL_BYTES)
    }

    /// Down to how many reserved bytes memory must be given back, to end a shortage.
    fn level_for(&self, heap_index: usize, shortage: &Shortage) -> u64 {
        match shortage {
            Shortage::Budget(bytes) => self.ledgers[heap_index].level_for(*bytes),
            Shortage::Driver(_) => 0,
        }
    }

    /// Gives back what holds nothing and no run can be made of: blocks that are not mapped, from when the driver mapped no more, and
    /// free parts of them. False if there is nothing.
    fn make_room_for(&self, growing: &mut Growing<'_, B::Block>, shortage: &Shortage) -> bool {
        let level = self.level_for(growing.heap_index, shortage);
        let mut left = self.ledgers[growing.heap_index].reserved_bytes();
        let mut is_needed = |idle: &IdleBlock| {
            let is_needed = left > level;
            left = left.saturating_sub(idle.reserved_bytes);
            is_needed
        };
        let purgeable = growing.purgeable.take_oldest(&mut is_needed);
        let idle = growing.pool.release_idle_with_addresses(&mut is_needed);
        let mut bytes = self.destroy(growing, Leaving { purgeable, idle });
        if self.ledgers[growing.heap_index].reserved_bytes() > level {
            bytes += self.release_holes(growing);
        }
        bytes > 0
    }

    /// Makes the memory and the mappings. `pending` is what has been charged and not been made yet.
    fn carry_out(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        way: &Composition,
        pending: &mut u64,
        made: &mut Vec<BlockIndex>,
    ) -> Result<Composed, Error> {
        if let Err(refusal) = self.make_physical(growing, request, pending, made) {
            return match refusal.kind() {
                ErrorKind::OutOfMemory => Ok(Composed::Short(Shortage::Driver(refusal))),
                _ => Err(refusal),
            };
        }
        let mapping_count = way.mapped.len() + made.len() + usize::from(way.last.is_some());
        let sparse = match self.sparse_for(growing, request, way, mapping_count) {
            Ok(sparse) => sparse,
            Err(refusal) if refusal.kind() == ErrorKind::OutOfMemory => return Ok(Composed::NoMappings),
            Err(refusal) => return Err(refusal),
        };
        let new = way.mapped.len()..way.mapped.len() + made.len();
        let parts: Vec<_> = way.mapped.iter().chain(made.iter()).chain(&way.last).copied().collect();
        let mut offset = growing.pool.mapped_end(sparse);
        let mut fresh = offset..offset;
        for (place, &physical) in parts.iter().enumerate() {
            let bytes = growing.pool.physical_bytes(physical);
            if let Err(refusal) = self.map_physical(growing, (sparse, offset), physical, bytes) {
                growing.pool.add_mappings(sparse, &parts[..place]);
                return match refusal.kind() {
                    ErrorKind::DeviceLost => Err(refusal),
                    _ => Ok(Composed::NoMappings),
                };
            }
            if !new.contains(&place) {
                growing.remapping.count_remapped(bytes);
            } else if place == new.start {
                fresh.start = offset;
            }
            offset += bytes;
            if new.contains(&place) {
                fresh.end = offset;
            }
        }
        growing.remapping.compositions.fetch_add(1, Ordering::Relaxed);
        Ok(Composed::Done { sparse, mapped: parts, fresh })
    }

    /// Makes physical blocks of all that is pending.
    fn make_physical(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        pending: &mut u64,
        made: &mut Vec<BlockIndex>,
    ) -> Result<(), Error> {
        let properties = self.backend.properties();
        let page_bytes = properties.physical_page_bytes;
        let most = properties.block_bytes_max / page_bytes * page_bytes;
        // Where there may be few blocks, they must be large.
        let budget_bytes = self.ledgers[growing.heap_index]
            .budget_bytes()
            .min(properties.heaps[growing.heap_index].size_bytes);
        let share_bytes = budget_bytes / (self.block_count.most() / 2).max(1);
        let reserved_bytes = self.ledgers[growing.heap_index].reserved_bytes();
        let least_bytes = self.physical_bytes(growing.heap_index, request);
        let large_bytes = least_bytes.max(2 * PHYSICAL_BYTES).max(reserved_bytes / PIECES_OF_ALL);
        let size = (*pending / PIECES).clamp(least_bytes, large_bytes).max(share_bytes);
        let size = size.next_multiple_of(page_bytes).min(most);
        while *pending > 0 {
            let bytes = size.min(*pending);
            // What is refused is refunded there.
            *pending -= bytes;
            let block = self.create_physical(growing, request, bytes)?;
            self.ledgers[growing.heap_index].confirm_beside(bytes, *pending);
            let index = growing.insert_block(&self.backend, block);
            growing.pool.add_physical(index, bytes);
            made.push(index);
        }
        Ok(())
    }

    fn create_physical(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        bytes: u64,
    ) -> Result<B::Block, Error> {
        let (call, desc) = ("create_physical_block", BlockDesc::new(bytes, request.memory_type()));
        // None is given back for it: those that hold nothing are to be mapped.
        if !self.block_count.charge() {
            self.ledgers[growing.heap_index].refund(bytes);
            return Err(Error::new(ErrorKind::OutOfMemory, call, self.too_many_blocks()));
        }
        self.create_with(growing, &desc, call, B::create_physical_block)
    }
}
