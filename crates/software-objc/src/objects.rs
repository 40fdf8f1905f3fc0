//! Objects: their memory, their counts, their deaths.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};

use crate::autorelease::add_to_pool;
use crate::blocks::Block;
use crate::classes::{Class, Method};
use crate::counts::{count_object, count_retain};
use crate::messages::find_method;
use crate::selectors::Sel;
use crate::weak;

/// The part of an object that a pointer to it points at. Instance variables follow; the header is before it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Object {
    /// The class; null in a class's static slot until the class is defined.
    isa: AtomicPtr<Class>,
}

/// A pointer to an Objective-C object, class or block. Nil is `None` of an `Option<Id>`.
///
/// One of an object of this runtime stays readable for ever, for the memory of dead objects is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Id(NonNull<Object>);

// SAFETY: what the runtime itself reads and writes through it is atomic; whether an object's methods may be called on
// other threads is the client's matter, as in Objective-C.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

/// What lies directly before each instance.
#[repr(C, align(16))]
struct Header {
    magic: usize,
    /// How often the object is held; 0 from the last release on.
    count: AtomicUsize,
}

/// Tells an instance from anything else that a stray pointer may point at.
const MAGIC: usize = 0x0b1e_c700_50f7_0b1c;

/// What an object answers as its count when nothing counts it.
const UNCOUNTED: usize = u32::MAX as usize;

impl Object {
    pub(crate) const fn unclassed() -> Self {
        Self { isa: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub(crate) fn of(class: &'static Class) -> Self {
        Self { isa: AtomicPtr::new(std::ptr::from_ref(class).cast_mut()) }
    }

    pub(crate) fn class(&self) -> Option<&'static Class> {
        let class = self.isa.load(Acquire);
        // SAFETY: it is null or was stored from a reference to a class, which is never freed.
        unsafe { class.as_ref() }
    }

    pub(crate) fn set_class(&self, class: &'static Class) {
        self.isa.store(std::ptr::from_ref(class).cast_mut(), Release);
    }
}

impl Id {
    pub(crate) fn of_class(class: &'static Class) -> Self {
        Self(NonNull::from(class).cast())
    }

    /// The block that this is, if it is one.
    fn block(self) -> Option<Block> {
        Block::at(self.0.cast())
    }

    fn object<'a>(self) -> &'a Object {
        // SAFETY: callers of the C functions pass objects, all of which begin with this; memory of instances and
        // classes is never freed, and a block lives through the call that it is passed to.
        unsafe { self.0.as_ref() }
    }

    /// The object's class; that of dead objects for a dead one. A slot is defined by this.
    ///
    /// # Panics
    ///
    /// For a block: blocks get no messages here.
    pub(crate) fn class(self) -> &'static Class {
        assert!(self.block().is_none(), "a message to a block, which has no class here");
        match self.object().class() {
            // An instance, or a class that is defined or being defined.
            Some(class) if !class.is_metaclass() => class,
            _ => {
                self.as_class().define();
                self.object().class().expect("a defined class has a metaclass")
            }
        }
    }

    /// Of a class or a metaclass only.
    fn as_class(self) -> &'static Class {
        // SAFETY: the object's class is a metaclass, or null as in a slot; so this is a class, which is never freed.
        unsafe { self.0.cast::<Class>().as_ref() }
    }

    pub(crate) fn never_dies(self) -> bool {
        self.object().class().is_none_or(Class::has_immortal_instances)
    }

    /// # Panics
    ///
    /// When the object is dead; `sel` is the message that it was to get.
    pub(crate) fn check_alive(self, sel: Sel) {
        if let Some(dead) = self.object().class().and_then(Class::zombie_of) {
            panic!("-[{} {sel}]: message sent to deallocated instance", dead.name());
        }
    }

    fn header<'a>(self) -> &'a Header {
        // SAFETY: only instances come here, and each has a header before it.
        let header = unsafe { self.0.cast::<Header>().sub(1) };
        // SAFETY: as above; the memory of an instance is never freed.
        let header = unsafe { header.as_ref() };
        assert!(header.magic == MAGIC, "{self:?} is no object of this runtime");
        header
    }

    /// The bytes of the instance from `offset` on.
    ///
    /// # Safety
    ///
    /// The object is an instance of a class that has something at this offset.
    pub(crate) unsafe fn state<T>(self, offset: usize) -> NonNull<T> {
        // SAFETY: the caller says that this is within the instance.
        unsafe { self.0.byte_add(offset) }.cast()
    }

    /// Makes an instance at a count of 1, its variables zeroed.
    ///
    /// # Panics
    ///
    /// When an instance variable wants an alignment over 16.
    pub(crate) fn create(class: &'static Class, extra: usize) -> Self {
        let object = Self::allocate(class, extra);
        class.count_birth();
        count_object();
        object
    }

    /// Makes an instance that is in no count of live objects; see [`create`](Self::create).
    pub(crate) fn allocate(class: &'static Class, extra: usize) -> Self {
        let (size, alignment) = class.instance_layout();
        let layout = Layout::new::<Header>();
        assert!(alignment <= layout.align(), "{}: alignment {alignment} is not supported", class.name());
        let size = layout.size().checked_add(size).and_then(|size| size.checked_add(extra));
        let layout = size.and_then(|size| Layout::from_size_align(size, layout.align()).ok());
        let layout = layout.unwrap_or_else(|| panic!("an instance of {} is too large", class.name()));
        // SAFETY: the size is not 0.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(header) = NonNull::new(memory.cast::<Header>()) else { handle_alloc_error(layout) };
        // SAFETY: the memory begins with room for a header.
        unsafe { header.write(Header { magic: MAGIC, count: AtomicUsize::new(1) }) };
        // SAFETY: the instance lies behind the header, in the same memory.
        let object = unsafe { header.add(1) }.cast::<Object>();
        // SAFETY: an instance is at least this large.
        unsafe { object.write(Object::of(class)) };
        Self(object)
    }

    /// Ends an instance: its memory stays for ever, and whatever it is asked from now on panics.
    pub(crate) fn dispose(self) {
        self.check_alive(Sel::named(c"dealloc"));
        let class = self.class();
        let count = self.header().count.load(Relaxed);
        assert!(count == 0, "-[{} dealloc]: the object is still held {count} times", class.name());
        self.object().set_class(class.zombie());
        class.count_death();
    }

    pub(crate) fn retain_count(self) -> usize {
        if self.never_dies() { UNCOUNTED } else { self.header().count.load(Relaxed) }
    }

    /// Raises the count unless the last release has been.
    pub(crate) fn try_retain(self) -> bool {
        let raised = self.try_hold();
        if raised {
            count_retain();
        }
        raised
    }

    /// As [`try_retain`](Self::try_retain), for the runtime's own references: the thread's counts do not tell.
    pub(crate) fn try_hold(self) -> bool {
        // Relaxed as in any counted reference: who may raise the count has the object already, or holds a lock that the
        // last release takes too.
        let raise = |count: usize| (count > 0).then(|| count + 1);
        self.header().count.fetch_update(Relaxed, Relaxed, raise).is_ok()
    }

    /// What `-[NSObject retain]` does.
    pub(crate) fn root_retain(self) {
        assert!(self.try_retain(), "-[{} retain]: the object is being deallocated", self.class().name());
    }

    /// What `-[NSObject release]` does.
    pub(crate) fn root_release(self) {
        // What was done to the object before any release is seen by who deallocates it.
        let lowered = self.header().count.fetch_update(AcqRel, Relaxed, |count| count.checked_sub(1));
        match lowered {
            Ok(1) => {
                weak::forget(self);
                let dealloc = Sel::named(c"dealloc");
                let method = find_method(self.class(), dealloc);
                method.unwrap_or_else(|| panic!("{} has no dealloc", self.class().name())).call(self);
            }
            Ok(_) => {}
            Err(_) => {
                panic!("-[{} release]: over-release, the object is being deallocated", self.class().name())
            }
        }
    }

    /// The method for `sel` where the class or a superclass overrides those that count.
    fn counting_override(self, sel: Sel) -> Option<&'static Method> {
        let class = self.class();
        class.overrides_counting().then(|| find_method(class, sel)).flatten()
    }

    /// Retains as a client would; answers the object, or the copy of a block.
    pub(crate) fn retain(self) -> Option<Self> {
        if let Some(block) = self.block() {
            return Some(Self(block.copy().address().cast()));
        }
        if self.never_dies() {
            return Some(self);
        }
        let retain = Sel::named(c"retain");
        self.check_alive(retain);
        if let Some(method) = self.counting_override(retain) {
            return method.call_for_object(self);
        }
        self.root_retain();
        Some(self)
    }

    /// Releases as a client would.
    pub(crate) fn release(self) {
        if let Some(block) = self.block() {
            return block.release();
        }
        if self.never_dies() {
            return;
        }
        let release = Sel::named(c"release");
        self.check_alive(release);
        match self.counting_override(release) {
            Some(method) => method.call(self),
            None => self.root_release(),
        }
    }

    /// Autoreleases as a client would.
    pub(crate) fn autorelease(self) -> Option<Self> {
        if self.block().is_none() {
            if self.never_dies() {
                return Some(self);
            }
            let autorelease = Sel::named(c"autorelease");
            self.check_alive(autorelease);
            if let Some(method) = self.counting_override(autorelease) {
                return method.call_for_object(self);
            }
        }
        add_to_pool(self);
        Some(self)
    }

    /// What `-[NSObject autorelease]` does.
    pub(crate) fn root_autorelease(self) {
        if !self.never_dies() {
            add_to_pool(self);
        }
    }

    pub(crate) fn address(self) -> usize {
        self.0.addr().get()
    }

    /// Whether a weak reference needs no table, for the object lives for ever.
    ///
    /// # Panics
    ///
    /// For a block, and for an object that is dead or dying.
    pub(crate) fn check_weakly_referable(self) -> bool {
        assert!(self.block().is_none(), "a weak reference to a block is not supported");
        if self.never_dies() {
            return true;
        }
        self.check_alive(Sel::named(c"allowsWeakReference"));
        let name = self.class().name();
        assert!(
            self.retain_count() > 0,
            "a weak reference to an instance of {name} that is being deallocated"
        );
        false
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({:p})", self.0)
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_createInstance(class: Option<&'static Class>, extra: usize) -> Option<Id> {
    class.map(|class| Id::create(class, extra))
}

#[unsafe(no_mangle)]
extern "C-unwind" fn object_dispose(object: Option<Id>) -> Option<Id> {
    if let Some(object) = object {
        object.dispose();
    }
    None
}

#[unsafe(no_mangle)]
pub(crate) extern "C-unwind" fn objc_retain(object: Option<Id>) -> Option<Id> {
    object?.retain()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_release(object: Option<Id>) {
    if let Some(object) = object {
        object.release();
    }
}
