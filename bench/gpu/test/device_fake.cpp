// No device: memory is the host's, streams do everything at once.
#include "../peers/device.hpp"

#include <atomic>
#include <stdexcept>

namespace device {

const bool has_streams = false;

static std::atomic<uint64_t> stream_count{0};

// What a test's allocator holds, which is what is not free.
std::atomic<uint64_t> used_bytes{0};

void open() {}
void use_on_this_thread() {}
std::string name() { return "no device"; }

void* make_stream() { return reinterpret_cast<void*>(++stream_count); }
void destroy_stream(void*) {}
void synchronize(void*) {}
void synchronize() {}

void* make_event() { return make_stream(); }
void destroy_event(void*) {}
void record(void*, void*) {}
void wait(void*, void*) {}

void touch(void* start, uint64_t bytes, uint64_t, void*) {
    auto* memory = static_cast<unsigned char*>(start);
    memory[0] = 1;
    memory[bytes - 1] = 1;
}

uint64_t free_bytes() { return (uint64_t{1} << 40) - used_bytes; }

}  // namespace device
