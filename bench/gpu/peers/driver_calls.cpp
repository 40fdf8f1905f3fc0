#include "driver_calls.hpp"

#include <cupti.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <stdexcept>

namespace {

using Clock = std::chrono::steady_clock;

void check(CUptiResult answer, const char* call) {
    if (answer == CUPTI_SUCCESS) return;
    const char* reason = "unknown";
    cuptiGetResultString(answer, &reason);
    throw std::runtime_error(std::string(call) + ": " + reason);
}

struct Counter {
    std::atomic<uint64_t> calls{0};
    std::atomic<uint64_t> nanoseconds{0};
};

// By the callback's number; what a newer driver has beyond these is counted in the last.
std::array<Counter, 2048> counters;

void CUPTIAPI on_call(void*, CUpti_CallbackDomain, CUpti_CallbackId id, const void* data) {
    thread_local uint64_t depth = 0;
    thread_local Clock::time_point begun;
    const auto* call = static_cast<const CUpti_CallbackData*>(data);
    if (call->callbackSite == CUPTI_API_ENTER) {
        if (depth++ == 0) begun = Clock::now();
        return;
    }
    // A call that began before anybody counted has no depth.
    if (depth == 0 || --depth > 0) return;
    const auto elapsed = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begun);
    Counter& counter = counters[std::min<size_t>(id, counters.size() - 1)];
    counter.calls.fetch_add(1, std::memory_order_relaxed);
    counter.nanoseconds.fetch_add(static_cast<uint64_t>(elapsed.count()), std::memory_order_relaxed);
}

std::string name_of(size_t id) {
    const char* name = nullptr;
    if (cuptiGetCallbackName(CUPTI_CB_DOMAIN_DRIVER_API, static_cast<uint32_t>(id), &name) != CUPTI_SUCCESS || name == nullptr) {
        return "driver function " + std::to_string(id);
    }
    return name;
}

}  // namespace

struct DriverCalls::Subscription {
    CUpti_SubscriberHandle handle = nullptr;
    ~Subscription() {
        if (handle != nullptr) cuptiUnsubscribe(handle);
    }
};

DriverCalls::DriverCalls() : subscription(std::make_unique<Subscription>()) {
    for (auto& counter : counters) {
        counter.calls = 0;
        counter.nanoseconds = 0;
    }
    check(cuptiSubscribe(&subscription->handle, on_call, nullptr), "cuptiSubscribe");
    check(cuptiEnableDomain(1, subscription->handle, CUPTI_CB_DOMAIN_DRIVER_API), "cuptiEnableDomain");
}

DriverCalls::~DriverCalls() = default;

DriverCalls::Total DriverCalls::stop() {
    subscription.reset();
    Total total;
    for (size_t id = 0; id < counters.size(); id++) {
        const uint64_t calls = counters[id].calls;
        if (calls == 0) continue;
        const double seconds = static_cast<double>(counters[id].nanoseconds) / 1e9;
        total.calls += calls;
        total.seconds += seconds;
        total.functions.push_back({name_of(id), calls, seconds});
    }
    const auto longer = [](const Function& one, const Function& other) { return one.seconds > other.seconds; };
    std::sort(total.functions.begin(), total.functions.end(), longer);
    return total;
}
