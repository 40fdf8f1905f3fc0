//! Classes: what they consist of, their registry, and the slots that clients link against.

mod builder;
mod queries;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

use parking_lot::RwLock;

pub(crate) use builder::{NativeClass, NativeMethod};

use crate::objects::{Id, Object};
use crate::protocols::Protocol;
use crate::selectors::Sel;

/// A method's function, whose real signature its type encoding tells.
pub(crate) type Imp = unsafe extern "C-unwind" fn();

/// A method of one class; never changed, never freed.
pub(crate) struct Method {
    pub(crate) sel: Sel,
    pub(crate) types: &'static CStr,
    pub(crate) imp: Imp,
}

/// An instance variable of one class; never changed, never freed.
pub(crate) struct Ivar {
    name: &'static CStr,
    types: &'static CStr,
    /// Bytes from the object's start.
    offset: isize,
}

/// An Objective-C class or metaclass. It is never freed.
///
/// Statics of this type come from [`class_slot!`](crate::class_slot); all others are made by `objc_allocateClassPair`.
#[repr(C)]
pub struct Class {
    /// First, for a class is an object too.
    object: Object,
    name: &'static CStr,
    kind: Kind,
    /// Whether instances ignore retain and release.
    immortal_instances: bool,
    /// Of a slot only: defines the class.
    init: Option<fn()>,
    /// The thread that is defining this class now, or 0.
    builder: AtomicUsize,
    registered: AtomicBool,
    superclass: OnceLock<&'static Class>,
    /// Whether retain, release or autorelease is overridden, here or in a superclass.
    overrides_counting: AtomicBool,
    /// Bytes, without the header.
    instance_size: AtomicUsize,
    live: AtomicUsize,
    /// What instances become when they die; made at the first death.
    zombie: OnceLock<&'static Class>,
    parts: RwLock<Parts>,
}

#[derive(Clone, Copy)]
enum Kind {
    Class,
    Metaclass,
    /// The class of dead instances of the class named here.
    Zombie(&'static Class),
}

struct Parts {
    methods: BTreeMap<Sel, &'static Method>,
    ivars: Vec<&'static Ivar>,
    protocols: Vec<&'static Protocol>,
    /// Of an instance, in bytes.
    alignment: usize,
}

static CLASSES: RwLock<BTreeMap<&'static CStr, &'static Class>> = RwLock::new(BTreeMap::new());
static SLOTS: RwLock<BTreeMap<&'static CStr, &'static Class>> = RwLock::new(BTreeMap::new());

/// Makes these slots known by name, so that a class of one of these names is defined in its slot, and so that
/// `objc_getClass` finds it.
///
/// A slot that is messaged before makes itself known; but a `define_class!` type that is used directly, before its
/// slot is known, would define a second class of that name. So call this first.
pub fn register_slots(slots: &[&'static Class]) {
    let mut known = SLOTS.write();
    for slot in slots {
        known.insert(slot.name, slot);
    }
}

/// All registered classes, ordered by name.
pub(crate) fn all_classes() -> Vec<&'static Class> {
    CLASSES.read().values().copied().collect()
}

/// The class of this name, defined now where only its slot is known.
fn find_class(name: &CStr) -> Option<&'static Class> {
    let registered = CLASSES.read().get(name).copied();
    registered.or_else(|| {
        let slot = SLOTS.read().get(name).copied()?;
        slot.define();
        Some(slot)
    })
}

/// A number that differs between threads which live at the same time, and is not 0.
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

impl Class {
    /// A static class that `init` defines when it is first used; see [`class_slot!`](crate::class_slot).
    #[must_use]
    pub const fn slot(name: &'static CStr, init: fn()) -> Self {
        Self::new(name, Kind::Class, Some(init))
    }

    /// A slot whose instances ignore retain and release.
    pub(crate) const fn slot_of_immortals(name: &'static CStr, init: fn()) -> Self {
        let mut class = Self::new(name, Kind::Class, Some(init));
        class.immortal_instances = true;
        class
    }

    const fn new(name: &'static CStr, kind: Kind, init: Option<fn()>) -> Self {
        Self {
            object: Object::unclassed(),
            name,
            kind,
            immortal_instances: matches!(kind, Kind::Metaclass),
            init,
            builder: AtomicUsize::new(0),
            registered: AtomicBool::new(false),
            superclass: OnceLock::new(),
            overrides_counting: AtomicBool::new(false),
            instance_size: AtomicUsize::new(size_of::<Object>()),
            live: AtomicUsize::new(0),
            zombie: OnceLock::new(),
            parts: RwLock::new(Parts {
                methods: BTreeMap::new(),
                ivars: Vec::new(),
                protocols: Vec::new(),
                alignment: align_of::<Object>(),
            }),
        }
    }

    /// The class's name. One that is not UTF-8 is not told.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or("(a class whose name is not UTF-8)")
    }

    /// Defines the class where it is a slot that nobody has used. Waits while another thread defines it.
    ///
    /// # Panics
    ///
    /// When the slot's function does not define the class.
    pub(crate) fn define(&'static self) {
        if self.registered.load(Acquire) || self.builder.load(Relaxed) == this_thread() {
            return;
        }
        let Some(init) = self.init else { return };
        register_slots(&[self]);
        // Where several threads come here, the `Once` within the definition lets one work and the others wait.
        init();
        assert!(
            self.registered.load(Acquire),
            "the function of the slot {} did not define the class",
            self.name()
        );
    }

    /// This class as an object.
    pub(crate) fn as_object(&'static self) -> Id {
        Id::of_class(self)
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn is_metaclass(&self) -> bool {
        matches!(self.kind, Kind::Metaclass)
    }

    pub(crate) fn has_immortal_instances(&self) -> bool {
        self.immortal_instances
    }

    pub(crate) fn overrides_counting(&self) -> bool {
        self.overrides_counting.load(Relaxed)
    }

    /// Of a class of dead objects: what they were.
    pub(crate) fn zombie_of(&self) -> Option<&'static Class> {
        if let Kind::Zombie(class) = self.kind { Some(class) } else { None }
    }

    /// The class that dead instances get.
    pub(crate) fn zombie(&'static self) -> &'static Class {
        self.zombie.get_or_init(|| {
            let name = [b"_Zombie_", self.name.to_bytes_with_nul()].concat();
            let name = CStr::from_bytes_with_nul(name.leak()).expect("a name with a nul at its end only");
            let zombie: &'static Class = Box::leak(Box::new(Class::new(name, Kind::Zombie(self), None)));
            zombie.object.set_class(zombie);
            zombie
        })
    }

    pub(crate) fn superclass(&'static self) -> Option<&'static Class> {
        self.define();
        self.superclass.get().copied()
    }

    /// This class, its superclass, and so on.
    pub(crate) fn and_superclasses(&'static self) -> impl Iterator<Item = &'static Class> {
        std::iter::successors(Some(self), |class| class.superclass())
    }

    /// The method that this class itself has.
    pub(crate) fn own_method(&'static self, sel: Sel) -> Option<&'static Method> {
        self.define();
        self.parts.read().methods.get(&sel).copied()
    }

    /// Bytes of an instance, without the header, and its alignment.
    pub(crate) fn instance_layout(&'static self) -> (usize, usize) {
        self.define();
        (self.instance_size.load(Acquire), self.parts.read().alignment)
    }

    /// Whether this class or a superclass has adopted the protocol, or one that includes it.
    pub(crate) fn conforms_to(&'static self, protocol: &'static Protocol) -> bool {
        self.and_superclasses().any(|class| class.itself_conforms_to(protocol))
    }

    fn itself_conforms_to(&'static self, protocol: &'static Protocol) -> bool {
        self.define();
        let adopted = self.parts.read().protocols.clone();
        adopted.iter().any(|own| own.includes(protocol))
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Acquire)
    }

    pub(crate) fn count_birth(&self) {
        self.live.fetch_add(1, Relaxed);
    }

    /// Whoever sees the lower count sees what the death did.
    pub(crate) fn count_death(&self) {
        self.live.fetch_sub(1, Release);
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Class").field("name", &self.name).field("live", &self.live()).finish_non_exhaustive()
    }
}

impl Method {
    /// Calls a method that has no arguments and whose result nobody wants.
    pub(crate) fn call(&self, receiver: Id) {
        // SAFETY: the selectors that the runtime sends so have no arguments, by their definition, and a result that a
        // register holds may be ignored.
        let imp: unsafe extern "C-unwind" fn(Id, Sel) = unsafe { std::mem::transmute::<Imp, _>(self.imp) };
        // SAFETY: the method was found in the receiver's class.
        unsafe { imp(receiver, self.sel) }
    }

    /// Calls a method that has no arguments and answers an object.
    pub(crate) fn call_for_object(&self, receiver: Id) -> Option<Id> {
        // SAFETY: the selectors that the runtime sends so have no arguments and answer an object, by their definition.
        let imp: unsafe extern "C-unwind" fn(Id, Sel) -> Option<Id> =
            unsafe { std::mem::transmute::<Imp, _>(self.imp) };
        // SAFETY: the method was found in the receiver's class.
        unsafe { imp(receiver, self.sel) }
    }

    /// Calls a method that takes a pointer, null here, and answers an object.
    pub(crate) fn call_with_null(&self, receiver: Id) -> Option<Id> {
        // SAFETY: the two selectors that are sent so, `copyWithZone:` and `mutableCopyWithZone:`, have this signature.
        let imp: unsafe extern "C-unwind" fn(Id, Sel, *mut c_void) -> Option<Id> =
            unsafe { std::mem::transmute::<Imp, _>(self.imp) };
        // SAFETY: the method was found in the receiver's class.
        unsafe { imp(receiver, self.sel, std::ptr::null_mut()) }
    }
}
