//! The names of a manager's tags.

use crate::statistics::{TAGS_MAX, Tag};
use aquifer_backend::{Error, ErrorKind};
use parking_lot::RwLock;
use std::collections::HashMap;

#[derive(Debug)]
pub(crate) struct TagNames(RwLock<Names>);

#[derive(Debug)]
struct Names {
    by_index: Vec<String>,
    by_name: HashMap<String, Tag>,
}

impl Default for TagNames {
    fn default() -> Self {
        let untagged = String::from("untagged");
        let by_name = HashMap::from([(untagged.clone(), Tag::UNTAGGED)]);
        Self(RwLock::new(Names { by_index: vec![untagged], by_name }))
    }
}

/// Why a tag was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAdded {
    /// There is one of that name: this.
    Taken(Tag),
    /// There are as many as there can be.
    Full,
}

impl Names {
    /// Adds a tag of a name that there is none of. `prepare` is called before anybody can have it.
    fn add(&mut self, name: &str, bits: u16, prepare: impl FnOnce(Tag)) -> Result<Tag, NotAdded> {
        let index = self.by_index.len();
        if index == TAGS_MAX {
            return Err(NotAdded::Full);
        }
        let tag = Tag(index as u16 | bits);
        prepare(tag);
        self.by_index.push(name.to_owned());
        self.by_name.insert(name.to_owned(), tag);
        Ok(tag)
    }
}

impl TagNames {
    /// The tag of a name, made if it is new.
    pub(crate) fn intern(&self, name: &str) -> Result<Tag, Error> {
        if let Some(&tag) = self.0.read().by_name.get(name) {
            return Ok(tag);
        }
        let mut names = self.0.write();
        if let Some(&tag) = names.by_name.get(name) {
            return Ok(tag);
        }
        names.add(name, 0, |_| {}).map_err(|_| {
            let message = format!("{name:?} would be one tag more than {TAGS_MAX}; use fewer, coarser tags");
            Error::new(ErrorKind::InvalidArgument, "tag", message)
        })
    }

    /// The tag of a name, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<Tag> {
        self.0.read().by_name.get(name).copied()
    }

    /// Adds a tag that is limited, of a new name. `prepare` is called with it before anybody else can have it, under the lock.
    pub(super) fn add_limited(&self, name: &str, prepare: impl FnOnce(Tag)) -> Result<Tag, NotAdded> {
        let mut names = self.0.write();
        match names.by_name.get(name) {
            Some(&tag) => Err(NotAdded::Taken(tag)),
            None => names.add(name, Tag::LIMITED, prepare),
        }
    }

    pub(crate) fn name(&self, tag: Tag) -> String {
        self.0.read().by_index.get(tag.index()).cloned().unwrap_or_default()
    }

    /// All names, by index.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.read().by_index.clone()
    }
}
