//! Making memory ready before it is asked for. See [`MemoryPool::preallocate`](super::MemoryPool::preallocate).

use super::elastic::{Composed, Shortage};
use super::ladder::InFlight;
use super::options::MemoryOptions;
use super::purgeable::Recover;
use super::queues::lost;
use super::shared::Shared;
use super::shrink::Leaving;
use super::typed_pool::Growing;
use crate::pool::{BLOCK_GRANULE_BYTES, EXACT_BYTES_MIN, Place, Request, SHARED_BLOCK_BYTES_MAX};
use crate::range::{BlockIndex, NO_QUEUE};
use aquifer_backend::{Backend, Error, ErrorKind};

const OPERATION: &str = "preallocate";

/// The most buffers of one size that can be made ready: their bookkeeping takes about a GiB of host memory.
const COUNT_MAX: u64 = 1 << 24;
/// What is smaller than a block of its own comes in blocks of this many bytes at least, if there is so much to make,
const BLOCK_BYTES_MIN: u64 = 32 << 20;
/// and of this share of all that is made.
const SHARE: u64 = 16;

/// The blocks to make: some of one size, and a last one. All but the last are full.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    full_count: u64,
    full_bytes: u64,
    /// 0 if there is none.
    last_bytes: u64,
}

impl Blocks {
    /// For `count` parts of `part_bytes`, none cut by a block's end. Blocks are multiples of `granule`, at most `most`
    /// bytes, which holds a part, and of parts that are no blocks of their own no more than `block_count` if that can be.
    fn new(part_bytes: u64, count: u64, granule: u64, most: u64, block_count: u64) -> Self {
        let whole_bytes = part_bytes.saturating_mul(count);
        let block_bytes = (whole_bytes / SHARE).clamp(BLOCK_BYTES_MIN, SHARED_BLOCK_BYTES_MAX);
        let wanted = if part_bytes >= EXACT_BYTES_MIN { 1 } else { (block_bytes / part_bytes).max(1) };
        let needed = count.div_ceil(block_count.max(1));
        let in_one = wanted.max(needed).min(most / part_bytes).max(1);
        let bytes_of = |parts: u64| (parts * part_bytes).next_multiple_of(granule).min(most);
        Self {
            full_count: count / in_one,
            full_bytes: bytes_of(in_one),
            last_bytes: bytes_of(count % in_one),
        }
    }

    fn bytes(&self) -> u64 {
        self.full_count.saturating_mul(self.full_bytes).saturating_add(self.last_bytes)
    }

    fn each(self) -> impl Iterator<Item = u64> {
        let full = (0..self.full_count).map(move |_| self.full_bytes);
        full.chain((self.last_bytes > 0).then_some(self.last_bytes))
    }
}

/// What has been brought together so far.
#[derive(Debug, Default)]
struct Found {
    places: Vec<Place>,
    blocks: Vec<BlockIndex>,
    created_bytes: u64,
}

impl<B: Backend> Shared<B> {
    /// Makes `count` ordinary buffers of `bytes` bytes ready; returns the bytes of the blocks made for that.
    pub(super) fn preallocate(&self, bytes: u64, count: u64) -> Result<u64, Error> {
        if count == 0 {
            return Ok(0);
        }
        self.check(OPERATION, bytes, &MemoryOptions::DEFAULT)?;
        if count > COUNT_MAX {
            let message = format!("{count} buffers asked for; {COUNT_MAX} of one size can be preallocated");
            return Err(Error::new(ErrorKind::InvalidArgument, OPERATION, message));
        }
        if self.is_lost() {
            return Err(lost(OPERATION));
        }
        self.check_process(OPERATION)?;
        if self.observers.are_gated() {
            self.pass_gate(MemoryOptions::DEFAULT, InFlight::Wait)?;
        }
        // What the driver holds of it may be what it lacks.
        self.let_go_of_imported();
        let request = self.request(self.ordinary, bytes, MemoryOptions::DEFAULT);
        // Noted here, under no lock.
        let try_once = || self.note(self.preallocate_locked(request, count));
        let mut answer = try_once();
        let is_short = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::OutOfMemory);
        if is_short && self.release_in_others(request) {
            answer = try_once();
        }
        // Those who wait may have looked while this held memory that it did not need after all, or that can be given up.
        self.bell.freed();
        self.tell_loss();
        answer
    }

    fn preallocate_locked(&self, request: Request, count: u64) -> Result<u64, Error> {
        let growing = &mut self.pools[request.memory_type()].lock_growth();
        let missing = (count as usize).saturating_sub(growing.pool.preallocated_count(request));
        if missing == 0 {
            return Ok(0);
        }
        let heap_index = growing.heap_index;
        let total = request.requested_bytes.saturating_mul(count);
        let budget_bytes = self.ledgers[heap_index].budget_bytes();
        if growing.pool.bytes(request).saturating_mul(count) > budget_bytes {
            let message = format!(
                "{count} buffers of {} bytes asked for; ask for fewer, or raise the budget",
                request.requested_bytes
            );
            return Err(self.out_of_memory_in(OPERATION, ErrorKind::CanNeverFit, message, heap_index, total));
        }
        let mut found = Found::default();
        let answer = self.find_or_create(growing, request, missing, &mut found);
        let Found { places, blocks, created_bytes } = found;
        let Err(refusal) = answer else {
            growing.pool.preallocate(request, places);
            return Ok(created_bytes);
        };
        growing.pool.free_places(request, places);
        let idle = blocks.into_iter().filter_map(|block| growing.pool.release_if_idle(block)).collect();
        self.destroy(growing, Leaving { idle, ..Leaving::default() });
        if refusal.kind() != ErrorKind::OutOfMemory {
            return Err(refusal);
        }
        let message = refusal.message().to_owned();
        let error = self.out_of_memory_in(OPERATION, ErrorKind::OutOfMemory, message, heap_index, total);
        Err(error.with_source(refusal))
    }

    /// Finds `missing` places in what is reserved and in new blocks. If that fails, what was found so far is in `found`.
    fn find_or_create(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        missing: usize,
        found: &mut Found,
    ) -> Result<(), Error> {
        if let Err(refusal) = found.places.try_reserve_exact(missing) {
            let message = format!("the host has no memory to keep {missing} places: {refusal}");
            return Err(Error::new(ErrorKind::OutOfMemory, OPERATION, message));
        }
        self.flush_and_settle(growing);
        growing.pool.find_places(request, &mut found.places, missing);
        self.recover_places(growing, request, missing, &mut found.places, Recover::GoodFit)?;
        // Other threads may take some of what is made: then more is made.
        while found.places.len() < missing {
            self.create_blocks(growing, request, missing, found)?;
        }
        Ok(())
    }

    /// Finds places in purgeable blocks, until there are `missing` or no block will do. False if it found none.
    fn recover_places(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        missing: usize,
        places: &mut Vec<Place>,
        which: Recover,
    ) -> Result<bool, Error> {
        let before = places.len();
        while places.len() < missing
            && let Some(idle) =
                self.recover_block(growing, request, (missing - places.len()) as u64, which)?
        {
            growing.pool.recover_for_places(idle, request, places);
            growing.pool.find_places(request, places, missing);
        }
        Ok(places.len() > before)
    }

    fn create_blocks(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        missing: usize,
        found: &mut Found,
    ) -> Result<(), Error> {
        if growing.is_elastic && self.compose_places(growing, request, missing, found)? {
            return Ok(());
        }
        let Some(blocks) = self.charge_blocks(growing, request, missing, &mut found.places)? else {
            return Ok(());
        };
        let ledger = &self.ledgers[growing.heap_index];
        let mut charged = blocks.bytes();
        for bytes in blocks.each() {
            if found.places.len() == missing {
                // Others have freed some.
                break;
            }
            // What is refused is refunded.
            charged -= bytes;
            let block = match self.create_or_make_room(growing, request, bytes) {
                Ok(block) => block,
                Err(refusal) => {
                    ledger.refund(charged);
                    return Err(refusal);
                }
            };
            ledger.confirm_beside(bytes, charged);
            let index = growing.insert_block(&self.backend, block);
            found.blocks.push(index);
            found.created_bytes += bytes;
            growing.pool.add_block(index, bytes, request, &mut found.places);
            growing.pool.find_places(request, &mut found.places, missing);
        }
        ledger.refund(charged);
        Ok(())
    }

    /// Puts addresses with memory together for the places that are missing, or for some of them. False if the driver maps no more.
    fn compose_places(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        missing: usize,
        found: &mut Found,
    ) -> Result<bool, Error> {
        let bytes = growing.pool.bytes(request);
        let part_bytes = growing.pool.range_bytes(request);
        let left = (missing - found.places.len()) as u64;
        let parts = left.div_ceil(part_bytes / bytes);
        let run_bytes = part_bytes * parts.min((SHARED_BLOCK_BYTES_MAX / part_bytes).max(1));
        let mut outcome = Composed::NoMappings;
        for run_bytes in [run_bytes, part_bytes, bytes] {
            let mut made = Vec::new();
            let answer = self.compose(growing, NO_QUEUE, request, run_bytes, &mut made);
            found.created_bytes += made.iter().map(|&index| growing.pool.physical_bytes(index)).sum::<u64>();
            found.blocks.append(&mut made);
            outcome = answer?;
            if !matches!(outcome, Composed::Short(_)) {
                break;
            }
        }
        match outcome {
            Composed::Done { sparse, mapped, .. } => {
                let before = found.places.len();
                growing.pool.add_mappings(sparse, &mapped);
                growing.pool.find_places(request, &mut found.places, missing);
                // Other threads may have been there first.
                Ok(found.places.len() > before)
            }
            Composed::NoMappings => Ok(false),
            Composed::Short(Shortage::Driver(refusal)) => Err(refusal),
            Composed::Short(Shortage::Budget(bytes)) => {
                let advice = "ask for fewer, free something, or raise the budget";
                let message = self.why_spent(advice, growing.heap_index, bytes)?;
                Err(Error::new(ErrorKind::OutOfMemory, OPERATION, message))
            }
        }
    }

    /// The blocks for `count` requests: with room for others at the end, and as small as can be.
    fn plan_blocks(&self, growing: &Growing<'_, B::Block>, request: Request, count: u64) -> [Blocks; 2] {
        let properties = self.backend.properties();
        let granularity = properties.block_granularity_bytes;
        let most = properties.block_bytes_max / granularity * granularity;
        let bytes = growing.pool.bytes(request);
        let part_bytes =
            Some(growing.pool.range_bytes(request)).filter(|&part| part <= most).unwrap_or(bytes);
        let parts = count.div_ceil(part_bytes / bytes);
        let block_count = self.block_count.left();
        [BLOCK_GRANULE_BYTES.max(granularity), granularity]
            .map(|granule| Blocks::new(part_bytes, parts, granule, most, block_count))
    }

    /// Charges blocks for the places that are missing. If there is no room, finds places in whatever is purgeable: then it
    /// answers `None`. Or else gives back what is free, which is of no use to them.
    fn charge_blocks(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        missing: usize,
        places: &mut Vec<Place>,
    ) -> Result<Option<Blocks>, Error> {
        let [roomy, tight] = self.plan_blocks(growing, request, (missing - places.len()) as u64);
        let ledger = &self.ledgers[growing.heap_index];
        let charge = |blocks: Blocks| ledger.charge(blocks.bytes()).then_some(blocks);
        if let Some(blocks) = charge(roomy).or_else(|| charge(tight)) {
            return Ok(Some(blocks));
        }
        if self.recover_places(growing, request, missing, places, Recover::AnyFit)? {
            return Ok(None);
        }
        self.release_down_to(growing, ledger.level_for(tight.bytes()));
        let charged = charge(tight).or_else(|| {
            self.release_holes(growing);
            charge(tight)
        });
        if charged.is_some() {
            return Ok(charged);
        }
        let advice = "ask for fewer, free something, or raise the budget";
        let message = self.why_spent(advice, growing.heap_index, tight.bytes())?;
        Err(Error::new(ErrorKind::OutOfMemory, OPERATION, message))
    }

    /// Makes a block that has been charged; if the driver has no more, gives back what is free and asks once more. Refunds
    /// what is refused.
    fn create_or_make_room(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        bytes: u64,
    ) -> Result<B::Block, Error> {
        self.create(growing, request, bytes).or_else(|refusal| {
            if refusal.kind() != ErrorKind::OutOfMemory {
                return Err(refusal);
            }
            let given_back = self.release_down_to(growing, 0) + self.release_holes(growing);
            if given_back == 0 || !self.ledgers[growing.heap_index].charge(bytes) {
                return Err(refusal);
            }
            self.create(growing, request, bytes)
        })
    }
}
