//! All sub-budgets of a manager, by path and by tag.

use super::charge::{Account, BYTES_MAX, COUNT_MAX, LEVELS_MAX};
use crate::manager::tags::{NotAdded, TagNames};
use crate::raw::fork::Process;
use crate::statistics::{Limits, SubBudgetStatistics};
use crate::statistics::{TAGS_MAX, Tag};
use aquifer_backend::{Error, ErrorKind};
use std::sync::{Arc, OnceLock};

/// The accounts that tags are charged to, by the tags' index. Only ever more.
type Table = Box<[OnceLock<Arc<Account>>]>;

/// The sub-budgets of one manager. They live as long as it, or a handle of one of them.
#[derive(Debug)]
pub(crate) struct SubBudgets {
    tags: Arc<TagNames>,
    /// Made with the first of them.
    table: OnceLock<Table>,
    process: Process,
}

fn invalid(operation: &'static str, message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, operation, message)
}

impl SubBudgets {
    pub(crate) fn new(tags: Arc<TagNames>) -> Arc<Self> {
        Arc::new(Self { tags, table: OnceLock::new(), process: Process::current() })
    }

    /// The account that allocations under a tag are charged to.
    #[inline]
    pub(crate) fn account(&self, tag: Tag) -> Option<&Arc<Account>> {
        self.table.get()?.get(tag.index())?.get()
    }

    /// Makes a sub-budget of a name, below another or the manager itself.
    pub(super) fn make(
        &self,
        parent: Option<&Arc<Account>>,
        name: &str,
        limits: Limits,
    ) -> Result<Arc<Account>, Error> {
        let operation = "sub_budget";
        self.check_process(operation)?;
        limits.check(operation)?;
        let path = path_below(operation, parent, name)?;
        if let Some(parent) = parent.filter(|parent| parent.depth + 1 == LEVELS_MAX) {
            let message = format!(
                "{name:?} asked for below {:?}; there are {LEVELS_MAX} levels at most: use tags for what is finer",
                parent.path
            );
            return Err(invalid(operation, message));
        }
        let mut made = None;
        let added = self.add(&path, |tag| {
            let account = Account::new(parent.cloned(), path.clone(), tag, limits);
            Arc::clone(made.insert(Arc::new(account)))
        });
        match (added, made) {
            (Ok(_), Some(account)) => Ok(account),
            (Err(NotAdded::Full), _) => Err(full(operation, &path)),
            _ => {
                let message = format!(
                    "{path:?} asked for; there is a sub-budget or a tag of that name already, for as long as the manager: use \
                     a clone of that handle, or another name"
                );
                Err(invalid(operation, message))
            }
        }
    }

    /// The account of a sub-budget's path.
    pub(super) fn find(&self, path: &str) -> Option<Arc<Account>> {
        let tag = self.tags.find(path).filter(|tag| tag.is_limited())?;
        // Tags below a sub-budget are charged to it, too.
        self.account(tag).filter(|account| account.own_tag == tag).cloned()
    }

    /// The tag of a name below a sub-budget, which is charged to that; made if it is new.
    pub(super) fn tag(&self, account: &Arc<Account>, name: &str) -> Result<Tag, Error> {
        let operation = "SubBudget::tag";
        self.check_process(operation)?;
        let path = path_below(operation, Some(account), name)?;
        match self.add(&path, |_| Arc::clone(account)) {
            Ok(tag) => Ok(tag),
            Err(NotAdded::Taken(tag)) if self.is_charged_to(tag, account) => Ok(tag),
            Err(NotAdded::Taken(_)) => {
                let message = format!(
                    "{path:?} asked for; that is a sub-budget's own tag, or one that MemoryManager::tag has made, which has no \
                     limits: use another name"
                );
                Err(invalid(operation, message))
            }
            Err(NotAdded::Full) => Err(full(operation, &path)),
        }
    }

    fn is_charged_to(&self, tag: Tag, account: &Arc<Account>) -> bool {
        tag.is_limited() && self.account(tag).is_some_and(|other| Arc::ptr_eq(other, account))
    }

    /// Adds a tag and the account that it is charged to.
    fn add(&self, path: &str, account: impl FnOnce(Tag) -> Arc<Account>) -> Result<Tag, NotAdded> {
        let table = self.table.get_or_init(|| (0..TAGS_MAX).map(|_| OnceLock::new()).collect());
        self.tags.add_limited(path, |tag| {
            let entry = table[tag.index()].set(account(tag));
            debug_assert!(entry.is_ok(), "a new tag has no account");
        })
    }

    pub(super) fn check_process(&self, operation: &'static str) -> Result<(), Error> {
        if self.process.is_current() {
            return Ok(());
        }
        let message = "this process was forked from the one that made the manager; make a manager of its own";
        Err(Error::new(ErrorKind::Forked, operation, message))
    }

    /// All of them, in the order of their making, so that what is above another comes before it.
    pub(crate) fn statistics(&self) -> Vec<SubBudgetStatistics> {
        let accounts = self.table.get().into_iter().flatten().enumerate();
        let own = |(index, entry): (usize, &OnceLock<Arc<Account>>)| {
            let account = entry.get()?;
            let name = || account.path.clone();
            (account.own_tag.index() == index)
                .then(|| SubBudgetStatistics { name: name(), usage: account.usage() })
        };
        accounts.filter_map(own).collect()
    }
}

fn path_below(operation: &'static str, parent: Option<&Arc<Account>>, name: &str) -> Result<String, Error> {
    if name.is_empty() || name.contains('/') {
        let message = format!("{name:?} asked for; a name has one character or more, and no slash");
        return Err(invalid(operation, message));
    }
    Ok(parent.map_or_else(|| name.to_owned(), |parent| format!("{}/{name}", parent.path)))
}

fn full(operation: &'static str, path: &str) -> Error {
    let message = format!(
        "{path:?} would be one tag more than {TAGS_MAX}, of which each sub-budget has one; use fewer, coarser ones"
    );
    invalid(operation, message)
}

/// What no limit can be higher than, for messages.
pub(super) const CEILINGS: (u64, u64) = (BYTES_MAX, COUNT_MAX);
