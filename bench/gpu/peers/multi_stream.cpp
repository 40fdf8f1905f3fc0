// Streams in turn: allocate, a tiny kernel that writes the buffer, free. What an allocator makes streams wait for each other, or
// for the host, shows as time. With `cross`, a second stream uses each buffer after the first, and the memory is freed in the
// way that the allocator has for that.
#include "harness.hpp"

#include <cmath>

namespace {

constexpr uint64_t BYTES_MIN = 4096;
// Sizes are log-uniform over so many powers of two: 4 KiB to 4 MiB.
constexpr double POWERS = 10;
constexpr uint64_t WARM_UP_COUNT = 200;
// About as long as launching takes, so that one stream alone is kept busy by the host.
constexpr uint64_t KERNEL_CLOCKS = 10000;

class Streams {
public:
    Streams(Allocator& allocator, uint64_t count, bool cross, uint64_t seed)
        : allocator(allocator), cross(cross && count > 1), random(seed) {
        for (uint64_t index = 0; index < count; index++) {
            streams.push_back(std::make_unique<OpenStream>(allocator));
            events.push_back(device::make_event());
        }
    }
    Streams(const Streams&) = delete;
    Streams& operator=(const Streams&) = delete;
    ~Streams() {
        for (void* event : events) device::destroy_event(event);
    }

    uint64_t run(uint64_t count_max, double seconds) {
        const auto begin = Clock::now();
        uint64_t count = 0;
        while (count < count_max && seconds_since(begin) < seconds) one(count++);
        device::synchronize();
        return count;
    }

private:
    void one(uint64_t index) {
        const auto home_index = index % streams.size();
        const Stream& home = **streams[home_index];
        Slot slot;
        const auto bytes = static_cast<uint64_t>(static_cast<double>(BYTES_MIN) * std::exp2(random.unit() * POWERS));
        ::allocate(allocator, slot, bytes, home);
        device::touch(slot.address, bytes, KERNEL_CLOCKS, home.cuda);
        if (!cross) {
            ::free(allocator, slot, home);
            return;
        }
        const Stream& last = **streams[(home_index + 1) % streams.size()];
        device::record(events[home_index], home.cuda);
        device::wait(last.cuda, events[home_index]);
        device::touch(slot.address, bytes, KERNEL_CLOCKS, last.cuda);
        allocator.free_after(slot.address, bytes, home, last, slot.storage);
    }

    Allocator& allocator;
    bool cross;
    Random random;
    std::vector<std::unique_ptr<OpenStream>> streams;
    std::vector<void*> events;
};

}  // namespace

void multi_stream(const Peer& peer, const Arguments& arguments, Row& row) {
    const double seconds = arguments.number("seconds");
    OpenAllocator allocator(peer, arguments.count("initial_bytes", 0));
    Streams streams(*allocator, arguments.count("streams"), arguments.count("cross") != 0, arguments.count("seed"));
    streams.run(WARM_UP_COUNT, seconds);
    const auto begin = Clock::now();
    const uint64_t count = streams.run(arguments.count("count"), seconds);
    const double elapsed = seconds_since(begin);
    row.number("value", elapsed * 1e6 / static_cast<double>(count)).text("unit", "us per buffer");
    row.count("allocations", count);
}
