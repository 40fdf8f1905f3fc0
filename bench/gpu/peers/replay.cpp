// A recorded program's allocations and frees, as fast as they go, with nothing else on the device. Three passes, each on an
// allocator of its own: `time`, `peak` (what the driver has given, seen by the driver) and `calls` (calls of the driver, by CUPTI).
#include "driver_calls.hpp"
#include "harness.hpp"
#include "trace.hpp"

#include <algorithm>
#include <stdexcept>

namespace {

// An allocation that took less has called no driver for memory: the cheapest such call takes several times as long.
constexpr double DRIVER_SECONDS_MIN = 2e-6;
// Besides, memory is looked at once in so many allocations.
constexpr uint64_t LOOK_EVERY = 1024;

const Trace& cached_trace(const std::string& path) {
    static std::string cached_path;
    static Trace cached;
    if (path != cached_path) {
        cached = read_trace(path);
        cached_path = path;
    }
    return cached;
}

class Replayed {
public:
    Replayed(Allocator& allocator, const Trace& trace) : allocator(allocator), trace(trace), slots(trace.slot_count) {
        for (uint32_t index = 0; index < trace.stream_count; index++) {
            streams.push_back(std::make_unique<OpenStream>(allocator));
        }
        homes.resize(trace.slot_count);
    }

    // `allocate_by(allocate)` calls `allocate` and may look around it.
    template <class AllocateBy>
    void run(AllocateBy&& allocate_by) {
        for (const auto& event : trace.events) {
            Slot& slot = slots[event.slot];
            const Stream& stream = **streams[event.stream];
            if (event.bytes == 0) {
                ::free(allocator, slot, stream);
                frees++;
            } else {
                allocate_by([&] { ::allocate(allocator, slot, event.bytes, stream); });
                homes[event.slot] = event.stream;
                allocations++;
            }
        }
    }

    void free_rest() {
        for (size_t index = 0; index < slots.size(); index++) {
            if (slots[index].address != nullptr) ::free(allocator, slots[index], **streams[homes[index]]);
        }
        device::synchronize();
    }

    uint64_t allocations = 0;
    uint64_t frees = 0;

private:
    Allocator& allocator;
    const Trace& trace;
    std::vector<Slot> slots;
    std::vector<uint32_t> homes;
    std::vector<std::unique_ptr<OpenStream>> streams;
};

void run_timed(Replayed& replayed, const Trace& trace, Row& row) {
    const auto begin = Clock::now();
    replayed.run([](auto&& allocate) { allocate(); });
    const double seconds = seconds_since(begin);
    row.number("value", seconds * 1e3).text("unit", "ms");
    row.number("ns_per_pair", seconds * 1e9 / static_cast<double>(trace.allocation_count));
}

void run_looking(Replayed& replayed, const Trace& trace, uint64_t free_before, Row& row) {
    uint64_t least_free = device::free_bytes();
    uint64_t looks = 0;
    auto look = [&] {
        least_free = std::min(least_free, device::free_bytes());
        looks++;
    };
    replayed.run([&](auto&& allocate) {
        const auto begin = Clock::now();
        allocate();
        if (seconds_since(begin) >= DRIVER_SECONDS_MIN || replayed.allocations % LOOK_EVERY == 0) look();
    });
    look();
    const uint64_t peak_bytes = free_before > least_free ? free_before - least_free : 0;
    row.number("value", static_cast<double>(peak_bytes) / static_cast<double>(trace.peak_requested_bytes));
    row.text("unit", "peak reserved / peak requested").count("peak_reserved_bytes", peak_bytes).count("looks", looks);
}

void run_counted(Replayed& replayed, const Trace& trace, Row& row) {
    DriverCalls counter;
    replayed.run([](auto&& allocate) { allocate(); });
    const auto total = counter.stop();
    row.number("value", 100 * total.seconds / trace.recorded_seconds).text("unit", "% of the recorded time in the driver");
    row.count("driver_calls", total.calls).number("driver_seconds", total.seconds);
    std::string by_name;
    for (const auto& function : total.functions) {
        Row one;
        one.text("function", function.name).count("calls", function.calls).number("seconds", function.seconds);
        by_name += (by_name.empty() ? "" : ",") + one.json();
    }
    row.raw("functions", "[" + by_name + "]");
}

}  // namespace

void replay(const Peer& peer, const Arguments& arguments, Row& row) {
    const Trace& trace = cached_trace(arguments.text("path"));
    const auto pass = arguments.text("pass");
    // Before anything can fail: whoever reads a failed row wants to know what was asked for.
    row.count("peak_requested_bytes", trace.peak_requested_bytes).number("recorded_seconds", trace.recorded_seconds);
    // Rounded to 2 MiB, as the driver does.
    const double initial = arguments.number("initial_over_peak", 0) * static_cast<double>(trace.peak_requested_bytes);
    const uint64_t initial_bytes = (static_cast<uint64_t>(initial) + (2 << 20) - 1) >> 21 << 21;
    if (initial > 0) row.count("initial_bytes", initial_bytes);
    const uint64_t free_before = device::free_bytes();
    OpenAllocator allocator(peer, initial_bytes);
    Replayed replayed(*allocator, trace);
    if (pass == "time") run_timed(replayed, trace, row);
    else if (pass == "peak") run_looking(replayed, trace, free_before, row);
    else if (pass == "calls") run_counted(replayed, trace, row);
    else throw std::runtime_error("there is no pass " + pass);
    replayed.free_rest();
    row.count("allocations", replayed.allocations).count("frees", replayed.frees);
}
