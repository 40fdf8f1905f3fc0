//! References to objects that the runtime itself holds.

use crate::objects::Id;
use crate::selectors::Sel;

/// A reference of the runtime's own, which keeps an object alive.
pub(crate) struct Held(Id);

impl Held {
    /// Nothing when the object's last release has been.
    pub(crate) fn try_new(object: Id) -> Option<Self> {
        // Not `then_some`, which would make a reference, and so release the object, where there is none.
        (object.never_dies() || object.try_hold()).then(|| Self(object))
    }

    /// # Panics
    ///
    /// When the object's last release has been.
    pub(crate) fn new(object: Id) -> Self {
        object.check_alive(Sel::named(c"retain"));
        Self::try_new(object)
            .unwrap_or_else(|| panic!("a {} that is being deallocated is used", object.class().name()))
    }

    pub(crate) fn id(&self) -> Id {
        self.0
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(self.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}
