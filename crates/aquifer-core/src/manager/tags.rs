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
        let index = names.by_index.len();
        if index == TAGS_MAX {
            let message = format!("{name:?} would be one tag more than {TAGS_MAX}; use fewer, coarser tags");
            return Err(Error::new(ErrorKind::InvalidArgument, "tag", message));
        }
        let tag = Tag(index as u16);
        names.by_index.push(name.to_owned());
        names.by_name.insert(name.to_owned(), tag);
        Ok(tag)
    }

    pub(crate) fn name(&self, tag: Tag) -> String {
        self.0.read().by_index.get(tag.index()).cloned().unwrap_or_default()
    }

    /// All names, by index.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.read().by_index.clone()
    }
}
