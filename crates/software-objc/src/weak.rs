//! Weak references: variables that become nil when their object dies.
//!
//! One lock guards the table and every variable in it. The last release takes it before the object is deallocated, so
//! a load either raises the count before it has become 0, or finds it 0 and answers nil. The header that it looks at
//! stays readable in any case, for dead objects keep their memory.

use std::collections::BTreeMap;
use std::ptr::NonNull;

use parking_lot::Mutex;

use crate::objects::Id;

/// The address of a weak variable.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Variable(NonNull<Option<Id>>);

// SAFETY: the variable is read and written under the table's lock alone.
unsafe impl Send for Variable {}

/// The variables that refer to each object.
type Table = BTreeMap<Id, Vec<Variable>>;

static TABLE: Mutex<Table> = Mutex::new(BTreeMap::new());

impl Variable {
    fn get(self, _table: &Table) -> Option<Id> {
        // SAFETY: the client passes the address of an initialised weak variable, or one in the table, which by
        // Objective-C's rules is neither moved nor freed before it is destroyed; and nobody else has the table.
        unsafe { self.0.read() }
    }

    fn put(self, _table: &mut Table, object: Option<Id>) {
        // SAFETY: as in `get`.
        unsafe { self.0.write(object) };
    }

    /// Makes it refer to nothing.
    fn clear(self, table: &mut Table) {
        if let Some(object) = self.get(table)
            && let Some(variables) = table.get_mut(&object)
        {
            variables.retain(|other| *other != self);
            if variables.is_empty() {
                table.remove(&object);
            }
        }
        self.put(table, None);
    }

    /// Makes it, which refers to nothing, refer to this object.
    fn refer(self, table: &mut Table, object: Option<Id>) {
        self.put(table, None);
        let Some(target) = object else { return };
        if !target.check_weakly_referable() {
            table.entry(target).or_default().push(self);
        }
        self.put(table, object);
    }

    fn load(self, table: &Table) -> Option<Id> {
        let object = self.get(table)?;
        // An object that lives for ever is in no table.
        (!table.contains_key(&object) || object.try_retain()).then_some(object)
    }
}

/// Makes all variables nil that refer to this object, whose count has become 0.
pub(crate) fn forget(object: Id) {
    let mut table = TABLE.lock();
    for variable in table.remove(&object).unwrap_or_default() {
        variable.put(&mut table, None);
    }
}

/// # Panics
///
/// When the object is dead or being deallocated, and for a block.
#[unsafe(no_mangle)]
extern "C-unwind" fn objc_initWeak(variable: Variable, object: Option<Id>) -> Option<Id> {
    variable.refer(&mut TABLE.lock(), object);
    object
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_destroyWeak(variable: Variable) {
    variable.clear(&mut TABLE.lock());
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_loadWeakRetained(variable: Variable) -> Option<Id> {
    variable.load(&TABLE.lock())
}

/// Makes `to`, which refers to nothing, refer to the object unless that is being deallocated.
fn copy(table: &mut Table, to: Variable, object: Option<Id>) {
    to.refer(table, object.filter(|object| object.retain_count() > 0));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_copyWeak(to: Variable, from: Variable) {
    let mut table = TABLE.lock();
    let object = from.get(&table);
    copy(&mut table, to, object);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_moveWeak(to: Variable, from: Variable) {
    let mut table = TABLE.lock();
    let object = from.get(&table);
    from.clear(&mut table);
    copy(&mut table, to, object);
}
