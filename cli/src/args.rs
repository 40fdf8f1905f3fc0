//! What the command line accepts.

use std::path::PathBuf;
use std::time::Duration;

use aquifer::parse_bytes;
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::watch::WatchArguments;

/// More threads than this are a slip of the pen.
const THREADS_MAX: i64 = 1024;
/// Longer than this for one size is another.
const SECONDS_MAX: f64 = 3600.0;

const EXAMPLES: &str = "\
Examples:
  aquifer replay traces/moe_train_start.csv.gz
  aquifer replay --policy power-of-two --budget 8G --threads 4 run1.csv.gz run2.csv.gz
  aquifer replay --backend sim --device-memory 80G run1.csv.gz
  aquifer replay --json *.csv.gz | jq '.reserved_over_requested'
  aquifer fit traces/moe_train_start.csv.gz
  aquifer trace info traces/moe_train_start.csv.gz
  aquifer bandwidth --plot transfers.svg
  aquifer watch --group /dev/shm/trainers
  aquifer info

Exit codes: 0 if everything was done, 2 for any error. NO_COLOR turns colours and bold type off.";

const REPLAY_EXAMPLES: &str = "\
Examples:
  aquifer replay traces/moe_train_start.csv.gz
  aquifer replay --policy power-of-two traces/moe_train_start.csv.gz
  aquifer replay --budget 8G --threads 4 run1.csv.gz run2.csv.gz
  aquifer replay --backend sim --device-memory 80G run1.csv.gz
  aquifer replay --json *.csv.gz | jq '.reserved_over_requested'

Streams are queues: memory that another stream still uses (the trace has a `c` for it) is kept until
then, and what one stream frees others get when that stream has come so far.

With the elastic policy memory comes in physical pages, which are mapped behind addresses: a request that
fits no free range is put together from free pages (a composition), and only what is missing is made.
Without --policy and AQUIFER_POLICY it is used wherever the backend can. A program's manager uses it by
itself only where touching such memory is cheap too, so not on a host without huge pages for files; a
replay touches nothing, and shows what it would do.

With `--backend sim` the replay answers whether the program would fit on a device of that size, and
what memory would cost it there. Driver's calls take as long as on an NVIDIA H200, in virtual time,
on top of the trace's own; nothing else of the program is simulated. The exit code is 2 if it does
not fit.

The variables AQUIFER_BUDGET, AQUIFER_POLICY and so on (`aquifer info` lists them) hold where no option says otherwise.
A trace that fails does not keep the others from being replayed; the exit code is then 2.";

const FIT_EXAMPLES: &str = "\
Examples:
  aquifer fit traces/moe_train_start.csv.gz
  aquifer fit --policy power-of-two run1.csv.gz run2.csv.gz
  aquifer fit --backend sim --device-memory 80G run1.csv.gz
  aquifer fit --json *.csv.gz | jq '.over_peak'

The answer is a budget in which the whole trace was replayed, on one thread, while memory ran out
in the one a step below, or there is none to try: the least is what the program asked for at most
at once, in whole blocks of the device. It is found by bisection, from what is reserved where there
is no limit. More need not do where less did, since what the manager does depends on what is left
of the budget: so a smaller budget that was not tried may do too, and a larger one may not.
`aquifer replay --budget` with the same options shows what becomes of any budget.

The host can take back parts of a block that are free, and so needs less than most devices: ask
`--backend sim` what a GPU needs. The default policy is that of `aquifer replay`.

Stalls and the time waited are those of the replay in the smallest budget: allocations that were
served only when completions had been waited for. Waits of the whole device are not told apart.

AQUIFER_BUDGET is the most that is tried (else: no limit on the host, what a CUDA device has free, what a Metal device advises,
all of a simulated device's), and AQUIFER_BUDGET_GROUP has no part in it. The other variables hold
(`aquifer info` lists them). A trace that completes in no budget, or fails otherwise, does not keep
the others from being done; the exit code is then 2.";

const TRACE_INFO_EXAMPLES: &str = "\
Examples:
  aquifer trace info traces/moe_train_start.csv.gz
  aquifer trace info --json run1.csv.gz run2.csv.gz";

const BANDWIDTH_EXAMPLES: &str = "\
Examples:
  aquifer bandwidth
  aquifer bandwidth --max-size 64M --plot transfers.svg
  aquifer bandwidth --sizes 4K,1M,48M --seconds-per-size 0.5 --threads 4
  aquifer bandwidth --backend sim --json | jq '.rows[] | [.route, .memory, .bytes, .ratio]'

Each route is timed in turns with what is as fast as can be: on the host a plain memcpy (or memset)
by as many threads, or by one if that is faster, elsewhere the driver's own call from and to pinned
memory. Figures are medians.
Both are done once before, then for --seconds-per-size, but 3 times at least and 1000 at most.

A size takes up to three buffers at a time, which are freed before the next. Sizes whose buffers
would take more than a quarter of the memory that may be used are left out, and so is what finds no
memory, or not enough that may be locked; what is left out is said.

With `--backend sim` a device with the times of an NVIDIA H200, and a peer, are measured in virtual
time, with the processors that copy simulated too: the same figures come out each time.

The variables AQUIFER_BUDGET, AQUIFER_PINNED_BYTES and so on (`aquifer info` lists them) hold.";

const INFO_EXAMPLES: &str = "\
Examples:
  aquifer info
  aquifer info --json
  AQUIFER_BUDGET=2G aquifer info";

/// Aquifer, a GPU memory manager: replay recorded allocation traces, see how little memory they need, and what there is.
#[derive(Debug, Parser)]
#[command(name = "aquifer", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replay allocation traces through the memory manager, on host memory, a CUDA or Metal device or a simulated one
    ///
    /// Each trace gets a manager of its own, and its allocations and frees happen in the order of the trace, as fast as
    /// they are served. The memory is reserved but never touched (unless AQUIFER_ZERO=reuse has it cleared), so a trace
    /// may be larger than this machine.
    Replay(ReplayArguments),
    /// Find the smallest budget in which the replay of a trace completes
    ///
    /// Tells it in bytes, and as a multiple of the trace's peak of requested bytes; of several traces also the geometric mean
    /// of these multiples.
    Fit(FitArguments),
    /// Look at allocation traces
    #[command(subcommand)]
    Trace(TraceCommand),
    /// Measure transfers, route by route and size by size, beside memcpy or the driver's own copies
    ///
    /// From the host to a device and back, from plain and from pinned memory, within a device, and from one device to
    /// another where there are two (of the host: from one manager to another).
    Bandwidth(BandwidthArguments),
    /// Watch how short memory is: of the machine, of this process's control group, and of budget groups
    ///
    /// A view on a terminal, one JSON object per line with --json, lines elsewhere.
    Watch(WatchArguments),
    /// Show devices, memory, limits and settings
    Info(InfoArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Describe traces: events, sizes, what is live at most and at the end
    Info(TraceInfoArguments),
}

/// The manager that a trace is replayed through.
#[derive(Debug, Args)]
pub(crate) struct ManagerArguments {
    /// Where memory comes from: what a program's manager does by itself, pages that are remapped as needed, blocks that stay as they are, or blocks with one class for each
    /// power of two [default: elastic where the backend can]; replaces AQUIFER_POLICY and AQUIFER_SUB_CLASSES
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(["automatic", "elastic", "blocks", "power-of-two"]))]
    pub(crate) policy: Option<String>,

    /// Whose memory: this machine's, a CUDA or Metal device's, or a simulated device's, with the costs of an NVIDIA H200
    #[arg(long, value_name = "NAME", value_enum, default_value_t = BackendName::Host)]
    pub(crate) backend: BackendName,

    /// The simulated device's memory, such as 24G [default: 140G]; only with `--backend sim`
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) device_memory: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = REPLAY_EXAMPLES)]
pub(crate) struct ReplayArguments {
    #[command(flatten)]
    pub(crate) manager: ManagerArguments,

    /// The most bytes to reserve, such as 1073741824, 512M or 8G [default: no limit on the host, since the memory is never
    /// touched; what a CUDA device has free; what a Metal device recommends; all of a simulated device's]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) budget: Option<u64>,

    /// On how many threads; the order of the trace is kept, so more threads show what changing threads costs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX))]
    pub(crate) threads: u32,

    /// Print one JSON object per trace and line, and no progress
    #[arg(long)]
    pub(crate) json: bool,

    /// Trace files, plain or compressed with gzip
    #[arg(required = true, value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = FIT_EXAMPLES)]
pub(crate) struct FitArguments {
    #[command(flatten)]
    pub(crate) manager: ManagerArguments,

    /// In which steps budgets are tried, in whole blocks of the device [default: 2M, or a thousandth of the trace's peak if that
    /// is less]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) precision: Option<u64>,

    /// Print one JSON object per trace and line, and no progress
    #[arg(long)]
    pub(crate) json: bool,

    /// Trace files, plain or compressed with gzip
    #[arg(required = true, value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,
}

/// Whose memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    Host,
    Cuda,
    Metal,
    Sim,
}

impl BackendName {
    /// What helps where the driver has no more memory.
    pub(crate) fn more_room(self) -> &'static str {
        match self {
            Self::Host | Self::Sim => "a machine or a limit of address space with more room",
            Self::Cuda | Self::Metal => "a device with more memory, or with less of it taken by others",
        }
    }
}

impl Arguments {
    /// The command line, read and checked.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        Self::try_parse()?.checked()
    }

    fn checked(self) -> Result<Self, clap::Error> {
        let (manager, budget) = match &self.command {
            Command::Replay(replay) => (&replay.manager, "use --budget"),
            Command::Fit(fit) => (&fit.manager, "set AQUIFER_BUDGET"),
            _ => return Ok(self),
        };
        if manager.backend != BackendName::Sim && manager.device_memory.is_some() {
            let message =
                format!("--device-memory is the size of a simulated device; add --backend sim, or {budget}");
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        Ok(self)
    }
}

#[derive(Debug, Args)]
#[command(after_help = TRACE_INFO_EXAMPLES)]
pub(crate) struct TraceInfoArguments {
    /// Print one JSON object per trace and line
    #[arg(long)]
    pub(crate) json: bool,

    /// Trace files, plain or compressed with gzip
    #[arg(required = true, value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = BANDWIDTH_EXAMPLES)]
pub(crate) struct BandwidthArguments {
    /// Whose transfers: this machine's memory, a CUDA or Metal device's, or a simulated device's, with the costs of an NVIDIA H200
    #[arg(long, value_name = "NAME", value_enum, default_value_t = BackendName::Host)]
    pub(crate) backend: BackendName,

    /// The sizes to measure, such as 4K,1M,48M [default: powers of four from 4K]
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', value_parser = size, conflicts_with = "max_size")]
    pub(crate) sizes: Vec<u64>,

    /// The largest of the default sizes [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) max_size: Option<u64>,

    /// How long each size of each route is repeated, at least 3 times [default: 0.1; 0 in virtual time, where nothing varies]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds_per_size: Option<Duration>,

    /// How many threads copy [default: the processors, at most 8; on a simulated device 8]; replaces AQUIFER_COPY_THREADS
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX))]
    pub(crate) threads: Option<u32>,

    /// Print one JSON object, and no progress
    #[arg(long)]
    pub(crate) json: bool,

    /// Also draw the figures to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = INFO_EXAMPLES)]
pub(crate) struct InfoArguments {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    match parse_bytes(text) {
        None => Err("use a whole number of bytes with K, M, G or T behind it, such as 512M or 8G".into()),
        Some(0) => Err("0 bytes hold nothing; use 1 or more".into()),
        Some(bytes) => Ok(bytes),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("use a number of seconds from 0 to {SECONDS_MAX}, such as 0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer::Config;

    #[test]
    fn the_arguments_are_consistent_and_every_policy_is_known() {
        Arguments::command().debug_assert();
        for policy in ["automatic", "elastic", "blocks", "power-of-two"] {
            let arguments =
                Arguments::try_parse_from(["aquifer", "replay", "--policy", policy, "x"]).unwrap();
            let Command::Replay(replay) = arguments.command else { panic!("{arguments:?}") };
            assert!(Config::default().with_policy(&replay.manager.policy.expect("it was given")).is_some());
        }
    }
}
