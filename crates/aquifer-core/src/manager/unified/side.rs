//! The two sides of a unified buffer, by name.

use aquifer_backend::{Error, ErrorKind};
use std::fmt;
use std::str::FromStr;

/// Who is to have a [`UnifiedBuffer`](crate::UnifiedBuffer)'s bytes at hand.
///
/// As text, in configuration files say, it is `host` or `device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The processor.
    Host,
    /// The device.
    Device,
}

impl Side {
    const ALL: [Self; 2] = [Self::Host, Self::Device];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Device => "device",
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Host => Self::Device,
            Self::Device => Self::Host,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Side {
    type Err = Error;

    /// The side of a name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for any other name, with those that there are.
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|side| side.as_str() == name);
        found.ok_or_else(|| {
            let message = format!("there is no side {name:?} to prefetch to; use \"host\" or \"device\"");
            Error::new(ErrorKind::InvalidArgument, "prefetch", message)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_refused() {
        for side in Side::ALL {
            assert_eq!(side.to_string().parse::<Side>().expect("its own name"), side);
            assert_eq!(side.other().other(), side);
        }
        for name in ["", "Host", "gpu", "host "] {
            let error = name.parse::<Side>().expect_err("no side's name");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let text = error.to_string();
            assert!(Side::ALL.iter().all(|side| text.contains(side.as_str())), "{text}");
        }
    }
}
