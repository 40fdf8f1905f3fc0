use super::*;
use crate::range::Terms;
use crate::range::{Bound, Composition, GRANULE_BYTES, IdleBlock, NO_QUEUE, QueueIndex, Range};
use proptest::prelude::*;

impl Ranges {
    /// Checks every promise about sparse and physical blocks; returns the bytes of memory behind sparse blocks.
    pub(crate) fn validate_remap(&self) -> u64 {
        let remap = &self.remap;
        self.validate_sparse();
        let present =
            || remap.physical.iter().enumerate().filter_map(|(index, owner)| Some((index, owner.as_ref()?)));
        let mut mapped: Vec<_> = present()
            .flat_map(|(index, owner)| {
                owner.mappings.iter().map(move |&mapping| (mapping, index as BlockIndex))
            })
            .collect();
        mapped.sort_unstable();
        assert!(mapped.iter().copied().eq(remap.mapped.iter().map(|(&mapping, &index)| (mapping, index))));
        let (mut free, mut fronts, mut backs, mut reserved, mut free_bytes) = (0, 0, 0, 0, 0);
        for (index, owner) in present() {
            let index = index as BlockIndex;
            let is_free = owner.claimed_bytes == 0 && !owner.is_leaving;
            assert_eq!(is_free, remap.free_by_size.contains(&(owner.bytes, index)));
            assert_eq!(is_free, remap.free_by_age.contains(&(owner.free_since, index)));
            free += usize::from(is_free);
            free_bytes += if is_free { owner.bytes } else { 0 };
            reserved += if owner.is_leaving { 0 } else { owner.bytes };
            for &(block, at) in &owner.mappings {
                let others = owner.mappings.iter().filter(|&&(other, _)| other == block);
                assert_eq!(others.count(), 1, "no byte twice in one block");
                assert!(at + owner.bytes <= remap.ends[&block], "mapped behind the end");
                let free = self.free_granules(block, at, owner.bytes);
                if owner.is_leaving {
                    assert!(free.iter().all(|&is_free| !is_free), "what leaves serves nobody");
                    continue;
                }
                let count = |granules: usize| granules as u64 * GRANULE_BYTES;
                let claimed = count(free.iter().filter(|&&is_free| !is_free).count());
                assert_eq!(claimed, owner.claimed_bytes, "physical block {index} in {block}");
                if claimed > 0 {
                    let front = count(free.iter().take_while(|&&is_free| is_free).count());
                    let back = count(free.iter().rev().take_while(|&&is_free| is_free).count());
                    assert_eq!(
                        (front, back),
                        (owner.front_bytes, owner.back_bytes),
                        "physical block {index}"
                    );
                }
            }
            assert!(owner.claimed_bytes == 0 || !owner.mappings.is_empty(), "claimed nowhere");
            let is_partly_free = |bytes| owner.claimed_bytes > 0 && bytes > 0;
            assert_eq!(is_partly_free(owner.front_bytes), remap.fronts.contains(&(owner.front_bytes, index)));
            assert_eq!(is_partly_free(owner.back_bytes), remap.backs.contains(&(owner.back_bytes, index)));
            fronts += usize::from(is_partly_free(owner.front_bytes));
            backs += usize::from(is_partly_free(owner.back_bytes));
        }
        assert_eq!((free, free), (remap.free_by_size.len(), remap.free_by_age.len()));
        assert_eq!((fronts, backs), (remap.fronts.len(), remap.backs.len()));
        assert_eq!((present().count(), free_bytes), (remap.physical_count, remap.free_bytes));
        reserved
    }

    /// The ranges of sparse blocks are known by place, merged, and memory is mapped behind all but the released ones.
    fn validate_sparse(&self) {
        let mut range_count = 0;
        let mut sparse = Vec::new();
        for (place, block) in self.blocks.iter().enumerate() {
            let Some(block) = block.filter(|block| block.is_sparse) else { continue };
            let place = place as BlockIndex;
            sparse.push(place);
            assert_eq!((block.released_bytes, block.idle_for), (0, None));
            assert!(self.remap.ends[&place] <= block.bytes);
            let mut index = block.first;
            while index != NONE {
                let node = self.nodes[index as usize];
                assert_eq!(self.remap.at.get(&(place, node.offset)), Some(&index));
                let is_merged = [RangeState::Released, RangeState::Elsewhere].contains(&node.state);
                let is_alike = node.next != NONE && self.nodes[node.next as usize].state == node.state;
                assert!(!(is_merged && is_alike), "neighbours in one state");
                range_count += 1;
                index = node.next;
            }
        }
        assert_eq!(range_count, self.remap.at.len());
        assert!(sparse.iter().eq(self.remap.ends.keys()));
    }

    /// Of a part of a block, which granules are free for everybody.
    fn free_granules(&self, block: BlockIndex, at: u64, bytes: u64) -> Vec<bool> {
        (at..at + bytes)
            .step_by(GRANULE_BYTES as usize)
            .map(|offset| {
                let node = self.nodes[self.remap.range_at(block, offset) as usize];
                node.state == RangeState::Free && node.bound.is_none()
            })
            .collect()
    }
}

/// What new memory comes in multiples of.
const UNIT_BYTES: u64 = 4 * GRANULE_BYTES;
const TERMS: Terms = Terms {
    unit_bytes: UNIT_BYTES,
    block_bytes: 2 * UNIT_BYTES,
    create_ns: 11_000,
    map_ns: 27_000,
    remap_weight: 1,
    spare_bytes: 0,
};
/// A block of the ordinary kind among the others.
const ORDINARY: BlockIndex = 0;
const ORDINARY_BYTES: u64 = 12 * GRANULE_BYTES;

/// A granule of memory, or of addresses: the block and the granule's number there.
type Granule = (BlockIndex, u64);

/// What a granule of memory is used for, if it is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Used { at: Granule },
    Bound { at: Granule, bound: Bound },
}

/// What is to be seen at a granule of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Used,
    Free { queue: QueueIndex },
    Released,
    Elsewhere,
}

#[derive(Debug, Default)]
struct Sparse {
    granules: u64,
    is_small: bool,
    /// Physical blocks by their first granule here.
    mapped: BTreeMap<u64, BlockIndex>,
}

/// The naive oracle: what is said of every granule, kept one by one.
#[derive(Debug, Default)]
struct Oracle {
    ranges: Ranges,
    sparse: BTreeMap<BlockIndex, Sparse>,
    /// Physical blocks: granules, and whether they are on their way out.
    physical: BTreeMap<BlockIndex, (u64, bool)>,
    claims: BTreeMap<Granule, Claim>,
    /// Sparse blocks that memory was taken from for the queue that might still use it there, and up to which of its values at least.
    left: BTreeSet<(QueueIndex, u64, BlockIndex)>,
    used: Vec<Range>,
    value: u64,
    next_block: BlockIndex,
    time_ms: u64,
}

impl Oracle {
    fn new() -> Self {
        let mut oracle = Self { next_block: ORDINARY + 1, ..Self::default() };
        oracle.ranges.add_block(ORDINARY, ORDINARY_BYTES, 0);
        oracle
    }

    fn new_block(&mut self) -> BlockIndex {
        self.next_block += 1;
        self.next_block - 1
    }

    /// The memory behind an address.
    fn memory(&self, (block, granule): Granule) -> Option<Granule> {
        let Some(sparse) = self.sparse.get(&block) else { return Some((block, granule)) };
        let (&first, &physical) = sparse.mapped.range(..=granule).next_back()?;
        (granule - first < self.physical[&physical].0).then_some((physical, granule - first))
    }

    fn expected(&self, at: Granule) -> Seen {
        let Some(memory) = self.memory(at) else { return Seen::Released };
        if self.physical.get(&memory.0).is_some_and(|&(_, is_leaving)| is_leaving) {
            return Seen::Released;
        }
        match self.claims.get(&memory) {
            None => Seen::Free { queue: NO_QUEUE },
            Some(Claim::Used { at: claimed_at }) if *claimed_at == at => Seen::Used,
            Some(Claim::Bound { at: claimed_at, bound }) if *claimed_at == at => {
                Seen::Free { queue: bound.queue }
            }
            Some(_) => Seen::Elsewhere,
        }
    }

    /// What the ranges say of a block, granule by granule.
    fn seen(&self, block: BlockIndex) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut index = self.ranges.blocks[block as usize].as_ref().expect("the block exists").first;
        while index != NONE {
            let node = self.ranges.nodes[index as usize];
            let state = match node.state {
                RangeState::Used => Seen::Used,
                RangeState::Free => Seen::Free { queue: node.bound.queue },
                RangeState::Released => Seen::Released,
                RangeState::Elsewhere => Seen::Elsewhere,
                RangeState::Returned => unreachable!("no step returns anything"),
            };
            seen.extend((0..node.bytes / GRANULE_BYTES).map(|_| state));
            index = node.next;
        }
        seen
    }

    /// All blocks with addresses, and their granules.
    fn blocks(&self) -> Vec<(BlockIndex, u64)> {
        let sparse = self.sparse.iter().map(|(&index, sparse)| (index, sparse.granules));
        std::iter::once((ORDINARY, ORDINARY_BYTES / GRANULE_BYTES)).chain(sparse).collect()
    }

    fn is_used_or_bound(&self, block: BlockIndex) -> bool {
        self.claims.values().any(|claim| match claim {
            Claim::Used { at } | Claim::Bound { at, .. } => at.0 == block,
        })
    }

    /// Whether the addresses of a sparse block stay for a queue. The ranges know: merged ones wait for the highest of their values.
    fn is_left(&self, block: BlockIndex) -> bool {
        let count = self.ranges.left.iter().filter(|&&(.., other)| other == block).count();
        let owner = self.ranges.blocks[block as usize].as_ref().expect("the block exists");
        assert_eq!(owner.left_count as usize, count);
        count > 0
    }

    /// Where all of a physical block is free for everybody or for `queue`, some of it for the queue alone: the first granule, and up to
    /// which value.
    fn whole_at(&self, queue: QueueIndex, physical: BlockIndex) -> Option<(Granule, u64)> {
        let (granules, is_leaving) = self.physical[&physical];
        let places = self.sparse.iter().flat_map(|(&block, sparse)| {
            sparse.mapped.iter().filter(|&(_, &other)| other == physical).map(move |(&at, _)| (block, at))
        });
        places.filter(|_| !is_leaving && queue != NO_QUEUE).find_map(|(block, first)| {
            let all = (first..first + granules).all(|granule| self.may_have(queue, (block, granule)));
            let bound = (0..granules).filter_map(|granule| match self.claims.get(&(physical, granule)) {
                Some(Claim::Bound { bound, .. }) => Some(bound.value),
                _ => None,
            });
            bound.max().filter(|_| all).map(|value| ((block, first), value))
        })
    }

    fn is_free(&self, memory: BlockIndex) -> bool {
        self.claims.range((memory, 0)..(memory + 1, 0)).next().is_none()
    }

    fn check(&self) {
        self.ranges.validate();
        for (block, granules) in self.blocks() {
            let expected: Vec<_> = (0..granules).map(|granule| self.expected((block, granule))).collect();
            assert_eq!(self.seen(block), expected, "block {block}");
        }
        let bytes_of = |is_counted: &dyn Fn(&Claim) -> bool| {
            self.claims.values().filter(|claim| is_counted(claim)).count() as u64 * GRANULE_BYTES
        };
        assert_eq!(self.ranges.used_bytes(), bytes_of(&|claim| matches!(claim, Claim::Used { .. })));
        assert_eq!(self.ranges.bound_bytes(), bytes_of(&|claim| matches!(claim, Claim::Bound { .. })));
        let staying = || self.physical.iter().filter(|(_, (_, is_leaving))| !is_leaving);
        let reserved: u64 = staying().map(|(_, &(granules, _))| granules * GRANULE_BYTES).sum();
        assert_eq!(self.ranges.reserved_bytes(), reserved + ORDINARY_BYTES);
        let free: u64 =
            staying().filter(|&(&index, _)| self.is_free(index)).map(|(_, &(granules, _))| granules).sum();
        let ordinary = if self.is_free(ORDINARY) { ORDINARY_BYTES } else { 0 };
        assert_eq!(self.ranges.idle_bytes(), free * GRANULE_BYTES + ordinary);
        assert_eq!(self.ranges.physical_count(), self.physical.len());
        assert_eq!(
            self.ranges.mapping_count(),
            self.sparse.values().map(|sparse| sparse.mapped.len()).sum::<usize>()
        );
        for &(queue, value, block) in &self.left {
            let stays = |&(owner, until, other): &(QueueIndex, u64, BlockIndex)| {
                (owner, other) == (queue, block) && until >= value
            };
            assert!(
                self.ranges.left.iter().any(stays),
                "the addresses of {block} go before {queue} has passed"
            );
        }
        let mut unused = self.ranges.unused_sparse();
        unused.sort_unstable();
        let expected: Vec<_> = self
            .sparse
            .iter()
            .filter(|&(&index, _)| !self.is_used_or_bound(index) && !self.is_left(index))
            .map(|(&index, sparse)| (index, sparse.mapped.len()))
            .collect();
        assert_eq!(unused, expected);
    }

    /// Whether a queue may have a granule of addresses.
    fn may_have(&self, queue: QueueIndex, at: Granule) -> bool {
        match self.expected(at) {
            Seen::Free { queue: owner } => owner == NO_QUEUE || owner == queue,
            _ => false,
        }
    }

    fn allocate(&mut self, small: Small) {
        let Small::Allocate { queue, granules, alignment_log2, is_small } = small else { return };
        let area = area(is_small);
        // Side by side is looked for without regard to where it happens to be aligned.
        let alignment = 1 << if queue == NO_QUEUE { alignment_log2 } else { 8 };
        let bytes = granules * GRANULE_BYTES;
        let found = self
            .ranges
            .allocate_in_hole(area, queue, bytes, alignment)
            .or_else(|| self.ranges.allocate_in_idle(queue, bytes))
            .or_else(|| self.ranges.allocate_across(queue, bytes, alignment));
        match found {
            Some(range) => self.take(queue, range, bytes, alignment),
            None => self.check_full(area, queue, granules, alignment / GRANULE_BYTES),
        }
    }

    fn take(&mut self, queue: QueueIndex, range: Range, bytes: u64, alignment: u64) {
        assert_eq!((range.bytes, range.offset % alignment), (bytes, 0));
        let first = range.offset / GRANULE_BYTES;
        let mut memory = BTreeSet::new();
        for granule in first..first + bytes / GRANULE_BYTES {
            let at = (range.block, granule);
            assert!(self.may_have(queue, at), "{range:?}: {at:?} is {:?} for {queue}", self.expected(at));
            let behind = self.memory(at).expect("what is free is mapped");
            assert!(memory.insert(behind), "the same memory twice in one range");
            self.claims.insert(behind, Claim::Used { at });
        }
        self.used.push(range);
    }

    /// Nothing that was looked at has room.
    fn check_full(&self, area: Area, queue: QueueIndex, granules: u64, alignment: u64) {
        for (block, size) in self.blocks() {
            let is_of_area =
                self.sparse.get(&block).map_or(Area::General, |sparse| self::area(sparse.is_small)) == area;
            let is_idle = block == ORDINARY && self.is_free(ORDINARY);
            for start in (0..size.saturating_sub(granules - 1)).step_by(alignment as usize) {
                let run = || (start..start + granules).map(|granule| (block, granule));
                let is_own = run().any(|at| queue != NO_QUEUE && self.expected(at) == Seen::Free { queue });
                let is_looked_at = is_of_area || is_idle || is_own;
                assert!(
                    !(is_looked_at && run().all(|at| self.may_have(queue, at))),
                    "there is room: {block}, {start}"
                );
            }
        }
    }

    fn free(&mut self, which: usize, queue: QueueIndex) {
        if self.used.is_empty() {
            return;
        }
        let range = self.used.swap_remove(which % self.used.len());
        self.value += 1;
        self.time_ms += 1;
        let bound = if queue == NO_QUEUE { Bound::NONE } else { Bound { queue, value: self.value } };
        let of_range = |at: Granule| {
            at.0 == range.block
                && (range.offset..range.offset + range.bytes).contains(&(at.1 * GRANULE_BYTES))
        };
        self.claims.retain(|_, claim| match *claim {
            Claim::Used { at } if of_range(at) => {
                *claim = Claim::Bound { at, bound };
                queue != NO_QUEUE
            }
            _ => true,
        });
        self.ranges.free(range.index, bound, self.time_ms);
    }

    /// A queue has passed all its values but the last so many.
    fn settle(&mut self, queue: QueueIndex, but: u64) {
        let reached = self.value.saturating_sub(but);
        self.ranges.settle(queue, reached, self.time_ms);
        self.left.retain(|&(owner, value, _)| owner != queue || value > reached);
        assert!(but > 0 || self.ranges.left.iter().all(|&(owner, ..)| owner != queue));
        // Merged ranges wait for the highest of their values: so the ranges are asked what of it is left.
        let seen: BTreeMap<_, _> =
            self.blocks().iter().map(|&(block, _)| (block, self.seen(block))).collect();
        self.claims.retain(|_, claim| match *claim {
            Claim::Bound { at: (block, granule), bound }
                if bound.queue == queue && bound.value <= reached =>
            {
                but > 0 && seen[&block][granule as usize] == Seen::Free { queue }
            }
            _ => true,
        });
    }

    fn small(&mut self, step: Small) {
        match step {
            Small::Allocate { .. } => self.allocate(step),
            Small::Free { which, queue } => self.free(which, queue),
            Small::Settle { queue, but } => self.settle(queue, but),
        }
        self.check();
    }

    /// Puts a run together as the manager does, while other threads go on in `between`.
    fn compose(&mut self, wanted: Wanted, between: Vec<Small>) {
        let Wanted { queue, granules, is_small, unit_count, spare } = wanted;
        let (area, bytes) = (area(is_small), granules * GRANULE_BYTES);
        let way = self.ranges.compose(area, queue, bytes, TERMS);
        self.check_composition(&way, area, queue, bytes);
        let is_alone = between.is_empty();
        let mut between = between.into_iter();
        let mut made = Vec::new();
        let mut left = way.new_bytes;
        while left > 0 {
            let bytes = left.min(unit_count * UNIT_BYTES);
            let index = self.new_block();
            self.ranges.add_physical(index, bytes, self.time_ms);
            self.physical.insert(index, (bytes / GRANULE_BYTES, false));
            made.push(index);
            left -= bytes;
        }
        self.check();
        let sparse = way.sparse.unwrap_or_else(|| {
            let granules =
                self.ranges.composition_bytes(&way) / GRANULE_BYTES + spare * UNIT_BYTES / GRANULE_BYTES;
            let index = self.new_block();
            self.ranges.add_sparse(index, granules * GRANULE_BYTES, area);
            self.sparse.insert(index, Sparse { granules, is_small, mapped: BTreeMap::new() });
            index
        });
        for physical in way.mapped.iter().copied().chain(made).chain(way.last) {
            if let Some(step) = between.next() {
                self.small(step);
            }
            self.map(queue, sparse, physical);
            self.check();
        }
        if is_alone {
            let hole = self.ranges.allocate_in_hole(area, queue, bytes, GRANULE_BYTES);
            let range = hole.or_else(|| self.ranges.allocate_across(queue, bytes, GRANULE_BYTES));
            self.take(queue, range.expect("a run was put together"), bytes, GRANULE_BYTES);
        }
    }

    fn map(&mut self, queue: QueueIndex, sparse: BlockIndex, physical: BlockIndex) {
        let whole = self.whole_at(queue, physical);
        let end = self.ranges.mapped_end(sparse) / GRANULE_BYTES;
        let granules = self.physical[&physical].0;
        let entry = self.sparse.get_mut(&sparse).expect("the sparse block exists");
        assert!(end + granules <= entry.granules, "no room for what is mapped");
        assert!(entry.mapped.iter().all(|(&at, other)| at + self.physical[other].0 <= end), "mapped over");
        entry.mapped.insert(end, physical);
        self.ranges.add_mapping_for(queue, sparse, physical, self.time_ms);
        if let Some(((left, _), value)) = whole {
            self.left.insert((queue, value, left));
            for granule in 0..granules {
                let bound = Bound { queue, value };
                self.claims.insert((physical, granule), Claim::Bound { at: (sparse, end + granule), bound });
            }
        }
    }

    fn check_composition(&self, way: &Composition, area: Area, queue: QueueIndex, bytes: u64) {
        assert_eq!(way.area, area);
        let pieces: Vec<_> = way.mapped.iter().chain(&way.last).copied().collect();
        let distinct: BTreeSet<_> = pieces.iter().collect();
        assert_eq!(distinct.len(), pieces.len(), "no block twice: {way:?}");
        assert!(pieces.iter().all(|piece| !self.physical[piece].1), "none that leaves");
        // All that is free serves before any is made.
        let free = self.physical.iter().filter(|&(&index, &(_, is_leaving))| {
            !is_leaving && (self.is_free(index) || self.whole_at(queue, index).is_some())
        });
        let fits = |granules: u64| area == Area::General || granules <= 2 * UNIT_BYTES / GRANULE_BYTES;
        let free: u64 = free.map(|(_, &(granules, _))| granules).filter(|&granules| fits(granules)).sum();
        let missing = bytes.saturating_sub(free * GRANULE_BYTES).div_ceil(UNIT_BYTES) * UNIT_BYTES;
        assert!(way.new_bytes <= missing, "{way:?} while {free} granules are free");
        if let Some(sparse) = way.sparse {
            let entry = &self.sparse[&sparse];
            assert_eq!(self::area(entry.is_small), area);
            assert!(entry.mapped.values().all(|mapped| !distinct.contains(mapped)), "no block twice in one");
        }
    }

    /// Free physical blocks go, or some of their mappings do and then they come back.
    fn shrink(&mut self, leavings: &[Leaving], between: Vec<Small>, sparse: Option<SparseStep>) {
        let mut leaving: Vec<(IdleBlock, Leaving)> = Vec::new();
        for &plan in leavings {
            let Some(&index) = self.physical.keys().nth(plan.which % self.physical.len().max(1)) else {
                return;
            };
            let idle = self.ranges.idle_block(index);
            let may_go = self.is_free(index) && !self.physical[&index].1;
            assert_eq!(idle.is_some(), may_go);
            assert_eq!(self.ranges.remove_block(index).is_some(), may_go);
            if let Some(idle) = idle {
                self.physical.get_mut(&index).expect("the block exists").1 = true;
                leaving.push((idle, plan));
            }
            self.check();
        }
        between.into_iter().for_each(|step| self.small(step));
        if let Some(step) = sparse {
            self.remove_sparse(step, Vec::new());
        }
        for (idle, plan) in leaving {
            let mappings = self.ranges.mappings(idle.block);
            let count = if plan.is_destroyed { mappings.len() } else { plan.unmapped };
            for &mapping in mappings.iter().take(count) {
                self.ranges.remove_mapping(idle.block, mapping);
                let (sparse, at) = mapping;
                let entry = self.sparse.get_mut(&sparse).expect("the sparse block exists");
                assert_eq!(entry.mapped.remove(&(at / GRANULE_BYTES)), Some(idle.block));
                self.check();
            }
            if plan.is_destroyed {
                self.ranges.forget_physical(idle.block);
                self.physical.remove(&idle.block);
            } else {
                self.ranges.restore_block(idle);
                self.physical.get_mut(&idle.block).expect("the block exists").1 = false;
            }
            self.check();
        }
    }

    /// A sparse block that nobody uses goes, or loses some of its mappings and comes back.
    fn remove_sparse(&mut self, step: SparseStep, between: Vec<Small>) {
        let Some(&index) = self.sparse.keys().nth(step.which % self.sparse.len().max(1)) else { return };
        let bytes = self.ranges.sparse_bytes(index);
        let is_unused = !self.is_used_or_bound(index) && !self.is_left(index);
        let removed = self.ranges.remove_sparse(index);
        assert_eq!(removed.is_some(), is_unused);
        let Some(mut mapped) = removed else { return };
        let mut entry = self.sparse.remove(&index).expect("the sparse block exists");
        let expected = entry.mapped.iter().map(|(&at, &physical)| (physical, at * GRANULE_BYTES));
        assert!(mapped.iter().copied().eq(expected));
        self.check();
        between.into_iter().for_each(|step| self.small(step));
        if step.is_destroyed {
            return;
        }
        let mut place = 0;
        mapped.retain(|_| {
            place += 1;
            step.kept & (1 << (place % 8)) != 0
        });
        self.ranges.restore_sparse(index, bytes, &mapped);
        entry.mapped = mapped.iter().map(|&(physical, at)| (at / GRANULE_BYTES, physical)).collect();
        entry.is_small = false;
        self.sparse.insert(index, entry);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Small(step) => self.small(step),
            Step::Compose { wanted, between } => self.compose(wanted, between),
            Step::Shrink { leavings, between, sparse } => self.shrink(&leavings, between, sparse),
            Step::RemoveSparse { step, between } => self.remove_sparse(step, between),
        }
        self.check();
    }

    /// All that is used is freed, and everything goes.
    fn end(mut self) {
        while !self.used.is_empty() {
            self.free(0, 1);
        }
        for queue in 1..3 {
            self.settle(queue, 0);
        }
        self.check();
        assert_eq!((self.ranges.used_bytes(), self.ranges.bound_bytes()), (0, 0));
        let physical: Vec<_> = self.physical.keys().copied().collect();
        for which in physical.iter().map(|_| 0) {
            self.shrink(&[Leaving { which, unmapped: 0, is_destroyed: true }], Vec::new(), None);
        }
        assert_eq!(self.ranges.mapping_count(), 0);
        for (sparse, count) in self.ranges.unused_sparse() {
            assert_eq!((count, self.ranges.remove_sparse(sparse)), (0, Some(Vec::new())));
            self.sparse.remove(&sparse);
        }
        self.check();
        assert!(self.sparse.is_empty());
        assert_eq!(self.ranges.remove_block(ORDINARY), Some(ORDINARY_BYTES));
        assert_eq!((self.ranges.reserved_bytes(), self.ranges.block_count()), (0, 0));
        let unused: BTreeSet<_> = self.ranges.unused_nodes.iter().collect();
        assert_eq!(
            (unused.len(), self.ranges.unused_nodes.len()),
            (self.ranges.nodes.len(), self.ranges.nodes.len())
        );
    }
}

fn area(is_small: bool) -> Area {
    if is_small { Area::Small } else { Area::General }
}

/// What other threads do at any time.
#[derive(Debug, Clone, Copy)]
enum Small {
    Allocate { queue: QueueIndex, granules: u64, alignment_log2: u32, is_small: bool },
    Free { which: usize, queue: QueueIndex },
    Settle { queue: QueueIndex, but: u64 },
}

/// How a physical block goes.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    which: usize,
    /// How many mappings go if it comes back.
    unmapped: usize,
    is_destroyed: bool,
}

/// How a sparse block goes.
#[derive(Debug, Clone, Copy)]
struct SparseStep {
    which: usize,
    /// Which mappings stay if it comes back.
    kept: u8,
    is_destroyed: bool,
}

/// What a run is put together for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    queue: QueueIndex,
    granules: u64,
    is_small: bool,
    /// New memory comes in blocks of so many units, and a new sparse block has room for so many more.
    unit_count: u64,
    spare: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Small(Small),
    Compose { wanted: Wanted, between: Vec<Small> },
    Shrink { leavings: Vec<Leaving>, between: Vec<Small>, sparse: Option<SparseStep> },
    RemoveSparse { step: SparseStep, between: Vec<Small> },
}

fn small() -> impl Strategy<Value = Small> {
    prop_oneof![
        4 => (0..3_u16, 1_u64..20, 8_u32..12, any::<bool>()).prop_map(|(queue, granules, alignment_log2, is_small)| {
            Small::Allocate { queue, granules, alignment_log2, is_small }
        }),
        4 => (any::<usize>(), 0..3_u16).prop_map(|(which, queue)| Small::Free { which, queue }),
        1 => (1..3_u16, 0..4_u64).prop_map(|(queue, but)| Small::Settle { queue, but }),
    ]
}

fn between() -> impl Strategy<Value = Vec<Small>> {
    prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(small(), 1..6)]
}

fn sparse_step() -> impl Strategy<Value = SparseStep> {
    (any::<usize>(), any::<u8>(), any::<bool>()).prop_map(|(which, kept, is_destroyed)| SparseStep {
        which,
        kept,
        is_destroyed,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let leaving = (any::<usize>(), 0..3_usize, any::<bool>())
        .prop_map(|(which, unmapped, is_destroyed)| Leaving { which, unmapped, is_destroyed });
    let step = prop_oneof![
        6 => small().prop_map(Step::Small),
        4 => (0..3_u16, 1_u64..30, prop::bool::weighted(0.3), 1..5_u64, 0..12_u64, between()).prop_map(
            |(queue, granules, is_small, unit_count, spare, between)| {
                Step::Compose { wanted: Wanted { queue, granules, is_small, unit_count, spare }, between }
            }
        ),
        1 => (prop::collection::vec(leaving, 1..4), between(), prop::option::of(sparse_step()))
            .prop_map(|(leavings, between, sparse)| Step::Shrink { leavings, between, sparse }),
        1 => (sparse_step(), between()).prop_map(|(step, between)| Step::RemoveSparse { step, between }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    // Each is looked at granule by granule after each step: a quarter of the usual number of cases.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_list_of_granules(steps in steps()) {
        let mut oracle = Oracle::new();
        for step in steps {
            oracle.step(step);
        }
        oracle.end();
    }
}
