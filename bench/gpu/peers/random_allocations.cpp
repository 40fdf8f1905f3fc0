// One stream, uniform sizes up to a largest one, within a total: before each allocation a coin says whether a random buffer is
// freed, and whatever must go for the total is.
#include "harness.hpp"

#include <utility>

namespace {

class Randomly {
public:
    Randomly(Allocator& allocator, uint64_t count, uint64_t largest_bytes, uint64_t total_bytes)
        : allocator(allocator), stream(allocator), slots(count), largest_bytes(largest_bytes), total_bytes(total_bytes) {}

    // Allocates as often as there are slots, and frees everything.
    void run(uint64_t seed) {
        Random random(seed);
        live_max = 0;
        for (uint32_t index = 0; index < slots.size(); index++) {
            const uint64_t bytes = 1 + static_cast<uint64_t>(random.unit() * static_cast<double>(largest_bytes));
            if (random.next() % 2 == 0 && !live.empty()) free_one(random);
            while (live_bytes + bytes > total_bytes && !live.empty()) free_one(random);
            ::allocate(allocator, slots[index], bytes, *stream);
            live.push_back(index);
            live_bytes += bytes;
            if (live.size() > live_max) live_max = live.size();
        }
        while (!live.empty()) free_one(random);
    }

    uint64_t live_max = 0;

private:
    void free_one(Random& random) {
        std::swap(live[random.next() % live.size()], live.back());
        Slot& slot = slots[live.back()];
        live.pop_back();
        live_bytes -= slot.bytes;
        ::free(allocator, slot, *stream);
    }

    Allocator& allocator;
    OpenStream stream;
    std::vector<Slot> slots;
    std::vector<uint32_t> live;
    uint64_t live_bytes = 0;
    uint64_t largest_bytes;
    uint64_t total_bytes;
};

}  // namespace

void random_allocations(const Peer& peer, const Arguments& arguments, Row& row) {
    const uint64_t count = arguments.count("count");
    OpenAllocator allocator(peer, arguments.count("initial_bytes", 0));
    Randomly randomly(*allocator, count, arguments.count("largest_bytes"), arguments.count("total_bytes"));
    // The first run makes the allocator as large as it gets; what it does then is measured.
    const uint64_t seed = arguments.count("seed");
    randomly.run(seed);
    const auto begin = Clock::now();
    randomly.run(seed + 1);
    const double elapsed = seconds_since(begin);
    device::synchronize();
    row.number("value", elapsed * 1e6 / static_cast<double>(count)).text("unit", "us per allocation and free");
    row.count("allocations", count).count("live_max", randomly.live_max);
}
