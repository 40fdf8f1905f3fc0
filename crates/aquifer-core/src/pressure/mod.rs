//! Memory pressure: when a level begins and ends, what is done at each, what is told and counted.
//!
//! Nothing here knows a manager; what a manager does with it is in `manager/pressure/`.

mod alarm;
mod config;
mod event;
mod response;
mod statistics;
mod tracker;

pub(crate) use alarm::Alarm;
pub use config::PressureConfig;
pub use event::{GivenBack, PressureDetail, PressureEvent};
pub use response::{Admission, PressureResponse};
pub(crate) use statistics::PressureBook;
pub use statistics::{PressureStatistics, SourceState, SourceStatistics};
pub(crate) use tracker::Tracker;
