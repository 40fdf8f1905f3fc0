// A step picks one of 1000 slots: what is there is freed, an empty one gets a buffer of log-uniform size. A pair is two steps.
#include "harness.hpp"

#include <algorithm>
#include <barrier>
#include <cmath>
#include <exception>
#include <thread>

namespace {

constexpr int SLOT_COUNT = 1000;
constexpr uint64_t WARM_UP_STEPS = 20000;
// Between looks at the clock.
constexpr uint64_t BATCH_STEPS = 256;

// What the steps do, drawn before anything is timed, so that the loop costs as little as it can. Slots come again in the same
// order after so many steps, sizes after so many allocations, so what is done comes again later than both.
class Draws {
public:
    explicit Draws(uint64_t seed) : slots(COUNT), sizes(COUNT) {
        Random random(seed);
        for (auto& slot : slots) slot = static_cast<uint16_t>(random.next() % SLOT_COUNT);
        for (auto& bytes : sizes) bytes = static_cast<uint32_t>(256.0 * std::exp2(random.unit() * 12.0));
    }
    uint16_t slot(uint64_t step) const { return slots[step % COUNT]; }
    uint32_t bytes(uint64_t allocation) const { return sizes[allocation % COUNT]; }

private:
    static constexpr size_t COUNT = 1 << 16;
    std::vector<uint16_t> slots;
    std::vector<uint32_t> sizes;
};

struct Measured {
    double ns_per_pair = 0;
    uint64_t steps = 0;
    uint64_t allocations = 0;
    uint64_t frees = 0;
    std::exception_ptr failure;
};

// One thread's slots on a stream of its own.
class Churn {
public:
    Churn(Allocator& allocator, uint64_t seed) : allocator(allocator), stream(allocator), draws(seed), slots(SLOT_COUNT) {}

    // Steps until enough are done, or until the time is over.
    uint64_t run(uint64_t steps_max, double seconds) {
        const auto begin = Clock::now();
        uint64_t done = 0;
        do {
            for (uint64_t step = 0; step < BATCH_STEPS; step++) this->step();
            done += BATCH_STEPS;
        } while (done < steps_max && seconds_since(begin) < seconds);
        return done;
    }

    void free_all() {
        for (auto& slot : slots) {
            if (slot.address == nullptr) continue;
            ::free(allocator, slot, *stream);
            frees++;
        }
        device::synchronize((*stream).cuda);
    }

    uint64_t allocations = 0;
    uint64_t frees = 0;

private:
    void step() {
        Slot& slot = slots[draws.slot(steps++)];
        if (slot.address != nullptr) {
            ::free(allocator, slot, *stream);
            frees++;
        } else {
            ::allocate(allocator, slot, draws.bytes(allocations), *stream);
            allocations++;
        }
    }

    Allocator& allocator;
    OpenStream stream;
    const Draws draws;
    uint64_t steps = 0;
    std::vector<Slot> slots;
};

// All threads are warm before one is timed, and all are timed before one frees the rest. `meet` is met three times whatever
// fails, or the others would wait for ever.
void run_thread(Allocator& allocator, uint64_t seed, double seconds, std::barrier<>& meet, Measured& measured) {
    std::unique_ptr<Churn> churn;
    auto attempt = [&](auto&& part) {
        try {
            if (!measured.failure) part();
        } catch (...) {
            measured.failure = std::current_exception();
        }
        meet.arrive_and_wait();
    };
    attempt([&] {
        device::use_on_this_thread();
        churn = std::make_unique<Churn>(allocator, seed);
        churn->run(WARM_UP_STEPS, seconds);
    });
    attempt([&] {
        const auto begin = Clock::now();
        measured.steps = churn->run(UINT64_MAX, seconds);
        measured.ns_per_pair = 2e9 * seconds_since(begin) / static_cast<double>(measured.steps);
    });
    attempt([&] {
        churn->free_all();
        measured.allocations = churn->allocations;
        measured.frees = churn->frees;
    });
    // What failed half way leaves its buffers to the end of the process; the allocator is not used again.
    if (measured.failure) churn.release();
}

}  // namespace

void pairs(const Peer& peer, const Arguments& arguments, Row& row) {
    const auto thread_count = arguments.count("threads");
    const double seconds = arguments.number("seconds");
    OpenAllocator allocator(peer, arguments.count("initial_bytes", 0));
    std::vector<Measured> measured(thread_count);
    std::vector<std::thread> threads;
    std::barrier<> meet(static_cast<std::ptrdiff_t>(thread_count));
    for (uint64_t index = 0; index < thread_count; index++) {
        const uint64_t seed = arguments.count("seed") + 1000 * index;
        threads.emplace_back([&, index, seed] { run_thread(*allocator, seed, seconds, meet, measured[index]); });
    }
    for (auto& thread : threads) thread.join();

    Measured all;
    for (const auto& one : measured) {
        if (one.failure) std::rethrow_exception(one.failure);
        all.ns_per_pair = std::max(all.ns_per_pair, one.ns_per_pair);
        all.steps += one.steps;
        all.allocations += one.allocations;
        all.frees += one.frees;
    }
    row.number("value", all.ns_per_pair).text("unit", "ns per pair, slowest thread").count("steps", all.steps);
    row.count("allocations", all.allocations).count("frees", all.frees);
}
