//! `aquifer info`.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use aquifer::{Backend, Config, ENVIRONMENT_VARIABLES, Host, MappingCosts};
use serde::Serialize;

use crate::args::InfoArguments;
use crate::cuda;
use crate::error::{CliError, Status};
use crate::job::policy_name;
use crate::metal;
use crate::output::{self, NO_LIMIT, Stream, bytes_in_words, count_in_words};

/// The object of `--json`.
#[derive(Debug, Serialize)]
struct Info {
    version: &'static str,
    devices: Vec<Device>,
    settings: Settings,
    environment: Vec<Variable>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Device {
    backend: &'static str,
    device: String,
    heaps: Vec<HeapInfo>,
    memory_types: Vec<MemoryTypeInfo>,
    block_granularity_bytes: u64,
    block_bytes_max: u64,
    block_count_max: u64,
    alignment_bytes_min: u64,
    /// Memory is mapped in whole multiples of so many bytes; 0: it cannot be.
    physical_page_bytes: u64,
    mapping_count_max: u64,
    /// `None`: not known, so nothing is mapped unless a program asks for it.
    mapping_costs: Option<MappingCostsInfo>,
    capabilities: Vec<String>,
}

#[derive(Debug, Serialize)]
struct MappingCostsInfo {
    create_ns: u64,
    map_ns: u64,
    unmap_ns: u64,
    destroy_ns: u64,
}

impl From<MappingCosts> for MappingCostsInfo {
    fn from(MappingCosts { create_ns, map_ns, unmap_ns, destroy_ns }: MappingCosts) -> Self {
        Self { create_ns, map_ns, unmap_ns, destroy_ns }
    }
}

#[derive(Debug, Serialize)]
struct HeapInfo {
    size_bytes: u64,
    budget_bytes: u64,
    available_bytes: u64,
}

#[derive(Debug, Serialize)]
struct MemoryTypeInfo {
    heap_index: usize,
    flags: Vec<String>,
}

/// What a manager would be set up with now.
#[derive(Debug, Serialize)]
struct Settings {
    policy: &'static str,
    sub_classes: u32,
    /// `None`: what each heap's budget says.
    budget_bytes: Option<u64>,
    zero: String,
    tracking: String,
    idle_decay_ms: Option<u64>,
    purgeable_after_ms: Option<u64>,
    /// Shares of a limit at which moderate, warning, critical and emergency begin.
    pressure_thresholds: [f64; 4],
    /// The directory of the budget group.
    budget_group: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Variable {
    name: &'static str,
    meaning: &'static str,
    /// `None`: not set.
    value: Option<String>,
}

/// Tells what devices there are and how a manager would be set up.
pub(crate) fn run(arguments: &InfoArguments) -> Result<Status, CliError> {
    let (mut devices, mut status) = (vec![device(&Host::new()?)?], Status::Done);
    // One that fails, being full or broken, is told, and the others are shown.
    for found in [cuda::devices(), metal::devices()].into_iter().flatten() {
        match found {
            Ok(device) => devices.push(device),
            Err(error) => {
                error.report(&mut io::stderr());
                status = Status::SomeFailed;
            }
        }
    }
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        devices,
        settings: settings()?,
        environment: environment(),
    };
    let written =
        if arguments.json { output::json_line(&info).map_err(CliError::from) } else { print(&info) };
    match written {
        Err(CliError::Output(error)) => status.after(error),
        written => written.map(|()| status),
    }
}

pub(crate) fn device<B: Backend>(backend: &B) -> Result<Device, CliError> {
    let properties = backend.properties();
    let mut heaps = Vec::new();
    for (index, heap) in properties.heaps.iter().enumerate() {
        let budget = backend.budget(index)?;
        heaps.push(HeapInfo {
            size_bytes: heap.size_bytes,
            budget_bytes: budget.budget_bytes,
            available_bytes: budget.available_bytes,
        });
    }
    let memory_types = properties.memory_types.iter();
    Ok(Device {
        backend: properties.backend,
        device: properties.device.clone(),
        heaps,
        memory_types: memory_types
            .map(|memory_type| MemoryTypeInfo {
                heap_index: memory_type.heap_index,
                flags: bit_names(&memory_type.flags),
            })
            .collect(),
        block_granularity_bytes: properties.block_granularity_bytes,
        block_bytes_max: properties.block_bytes_max,
        block_count_max: properties.block_count_max,
        alignment_bytes_min: properties.alignment_bytes_min,
        physical_page_bytes: properties.physical_page_bytes,
        mapping_count_max: properties.mapping_count_max,
        mapping_costs: properties.mapping_costs.map(MappingCostsInfo::from),
        capabilities: bit_names(&properties.capabilities),
    })
}

/// The names of the bits that are set, which is what a bit set's `Debug` is: `{ONE, OTHER}`. So no bit that a later
/// backend brings is missing here.
fn bit_names(bits: &impl Debug) -> Vec<String> {
    let text = format!("{bits:?}");
    let names = text.trim_matches(['{', '}']).split(", ").filter(|name| !name.is_empty());
    names.map(|name| name.to_lowercase().replace('_', "-")).collect()
}

fn settings() -> Result<Settings, CliError> {
    let config = Config::default().with_environment()?;
    Ok(Settings {
        policy: policy_name(&config),
        sub_classes: config.layout.sub_classes(),
        budget_bytes: config.budget_bytes,
        zero: format!("{:?}", config.zero_policy),
        tracking: format!("{:?}", config.tracking),
        idle_decay_ms: config.idle_decay.map(|decay| decay.as_millis() as u64),
        purgeable_after_ms: config.purgeable_after.map(|age| age.as_millis() as u64),
        pressure_thresholds: config.pressure.thresholds,
        budget_group: config.budget_group.map(|group| group.path().to_owned()),
    })
}

fn environment() -> Vec<Variable> {
    let value = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let variable = |(name, meaning)| Variable { name, meaning, value: value(name) };
    ENVIRONMENT_VARIABLES.into_iter().map(variable).collect()
}

fn limit_in_words(count: u64) -> String {
    if count == u64::MAX { "no limit known".to_owned() } else { count_in_words(count) }
}

fn print(info: &Info) -> Result<(), CliError> {
    for device in &info.devices {
        output::line(device_table(device))?;
    }
    let settings = &info.settings;
    let mut table = output::table(Stream::Output, ["a manager's settings", "now"], |_| output::Align::Left);
    let budget = match settings.budget_bytes {
        None => "as the device says".to_owned(),
        Some(NO_LIMIT) => "no limit".to_owned(),
        Some(bytes) => bytes_in_words(bytes),
    };
    let in_words = |ms: Option<u64>| ms.map_or_else(|| "off".to_owned(), |ms| format!("{ms} ms"));
    let policy = match settings.policy {
        "automatic" => "automatic: elastic where mapping costs are known, else blocks",
        policy => policy,
    };
    table.add_row(["policy", policy]);
    table.add_row(["sub-classes", &settings.sub_classes.to_string()]);
    table.add_row(["budget", &budget]);
    table.add_row(["zero", &settings.zero]);
    table.add_row(["tracking", &settings.tracking]);
    table.add_row(["idle decay", &in_words(settings.idle_decay_ms)]);
    table.add_row(["purgeable after", &in_words(settings.purgeable_after_ms)]);
    let thresholds = settings.pressure_thresholds.map(|share| format!("{:.0} %", 100.0 * share));
    table.add_row(["pressure from", &thresholds.join(", ")]);
    let group = settings.budget_group.as_ref().map_or_else(|| "none".to_owned(), |path| format!("{path:?}"));
    table.add_row(["budget group", &group]);
    output::line(format_args!("\n{table}"))?;
    let header = ["variable", "value", "meaning"];
    let mut table = output::table(Stream::Output, header, |_| output::Align::Left);
    for variable in &info.environment {
        // Quoted, so that nothing in it can move the cursor.
        let value =
            variable.value.as_ref().map_or_else(|| "not set".to_owned(), |value| format!("{value:?}"));
        table.add_row([variable.name, &value, variable.meaning]);
    }
    output::line(format_args!("\n{table}"))?;
    Ok(())
}

fn device_table(device: &Device) -> comfy_table::Table {
    let header = [device.backend, device.device.as_str()];
    let mut table = output::table(Stream::Output, header, |_| output::Align::Left);
    for heap in &device.heaps {
        table.add_row(["physical memory", &bytes_in_words(heap.size_bytes)]);
        table.add_row(["budget: lowest limit of system and process", &bytes_in_words(heap.budget_bytes)]);
        table.add_row(["  available now", &bytes_in_words(heap.available_bytes)]);
    }
    for memory_type in &device.memory_types {
        table.add_row(["memory", &memory_type.flags.join(", ")]);
    }
    table.add_row(["block granularity", &bytes_in_words(device.block_granularity_bytes)]);
    table.add_row(["blocks start at multiples of", &bytes_in_words(device.alignment_bytes_min)]);
    table.add_row(["largest block", &bytes_in_words(device.block_bytes_max)]);
    table.add_row(["blocks at most", &limit_in_words(device.block_count_max)]);
    if device.physical_page_bytes > 0 {
        table.add_row(["memory is mapped in pages of", &bytes_in_words(device.physical_page_bytes)]);
        table.add_row(["mappings at most", &limit_in_words(device.mapping_count_max)]);
        let costs = device.mapping_costs.as_ref().map_or_else(
            || "not known, so only where a program asks for it".to_owned(),
            |costs| {
                let MappingCostsInfo { create_ns, map_ns, unmap_ns, destroy_ns } = costs;
                format!(
                    "create {create_ns} ns, map {map_ns} ns, unmap {unmap_ns} ns, destroy {destroy_ns} ns"
                )
            },
        );
        table.add_row(["mapping costs", &costs]);
    }
    table.add_row(["capabilities", &device.capabilities.join(", ")]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names() {
        let host = Host::new().unwrap();
        let mut names = bit_names(&host.properties().capabilities);
        // Where the system lets it.
        names.retain(|name| name != "sparse-blocks");
        assert_eq!(
            names,
            ["zeroed-blocks", "commit-on-touch", "release-range", "queues", "import", "runs-on-host"]
        );
        assert!(bit_names(&std::collections::BTreeSet::<u8>::new()).is_empty());
    }
}
