//! Free places that all threads share, one stack per class.
//!
//! A thread cache that has run empty or full exchanges half of its stack here under one short lock. What the depot
//! may keep is bounded; the rest goes back to slabs and ranges, where neighbours merge.

use super::Place;
use super::layout::{BucketLayout, ClassIndex};
use super::thread_cache::Batch;
use crate::sync::{Mutex, Rank, table_size};
use crossbeam_utils::CachePadded;

/// Most places one class keeps, by count and by bytes.
const CLASS_PLACES_MAX: u64 = table_size(256, 2);
const CLASS_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug)]
struct DepotClass {
    places_max: usize,
    places: Vec<Place>,
}

/// The shared stacks of one pool.
#[derive(Debug)]
pub(crate) struct Depot {
    classes: Box<[CachePadded<Mutex<DepotClass>>]>,
}

impl Depot {
    pub(crate) fn new(layout: &BucketLayout) -> Self {
        let classes = (0..layout.cached_class_count()).map(|class| {
            let class_bytes = layout.class_bytes(class);
            let places_max = (CLASS_BYTES_MAX / class_bytes).min(CLASS_PLACES_MAX) as usize;
            CachePadded::new(Mutex::new(Rank::Depot, DepotClass { places_max, places: Vec::new() }))
        });
        Self { classes: classes.collect() }
    }

    /// Moves up to `count` places of a class to `places`.
    pub(crate) fn take(&self, class: ClassIndex, count: usize, places: &mut Batch) {
        let mut depot = self.classes[class].lock();
        let first = depot.places.len().saturating_sub(count);
        places.extend(depot.places.drain(first..));
    }

    /// Keeps as many of `places` as it may, from the end; what is left in `places` is the caller's.
    pub(crate) fn put(&self, class: ClassIndex, places: &mut Batch) {
        let mut depot = self.classes[class].lock();
        let room = depot.places_max.saturating_sub(depot.places.len());
        let first = places.len().saturating_sub(room);
        depot.places.extend(places.drain(first..));
    }

    /// Takes everything out, one class at a time.
    pub(crate) fn drain(&self, mut take: impl FnMut(ClassIndex, Vec<Place>)) {
        for (class, depot) in self.classes.iter().enumerate() {
            let places = std::mem::take(&mut depot.lock().places);
            if !places.is_empty() {
                take(class, places);
            }
        }
    }

    /// How many places of a class are kept.
    pub(crate) fn place_count(&self, class: ClassIndex) -> u64 {
        self.classes[class].lock().places.len() as u64
    }
}
