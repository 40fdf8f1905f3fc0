// The device of the CUDA driver in software: its memory is not the host's.
#include "../peers/device.hpp"

#include <stdexcept>

// cuda.h is not needed for a test.
extern "C" {
int cuInit(unsigned flags);
int cuDevicePrimaryCtxRetain(void** context, int device);
int cuCtxSetCurrent(void* context);
int cuCtxSynchronize();
int cuStreamCreate(void** stream, unsigned flags);
int cuStreamDestroy_v2(void* stream);
int cuStreamSynchronize(void* stream);
int cuStreamWaitEvent(void* stream, void* event, unsigned flags);
int cuEventCreate(void** event, unsigned flags);
int cuEventDestroy_v2(void* event);
int cuEventRecord(void* event, void* stream);
int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void* stream);
int cuMemGetInfo_v2(size_t* free, size_t* total);
}

namespace device {

const bool has_streams = true;

static void* context = nullptr;

static void check(int answer, const char* call) {
    if (answer != 0) throw std::runtime_error(std::string(call) + " answered " + std::to_string(answer));
}

void open() {
    check(cuInit(0), "cuInit");
    check(cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
    use_on_this_thread();
}

void use_on_this_thread() { check(cuCtxSetCurrent(context), "cuCtxSetCurrent"); }
std::string name() { return "a device in software"; }

void* make_stream() {
    void* stream = nullptr;
    check(cuStreamCreate(&stream, 1), "cuStreamCreate");
    return stream;
}

void destroy_stream(void* stream) { check(cuStreamDestroy_v2(stream), "cuStreamDestroy"); }
void synchronize(void* stream) { check(cuStreamSynchronize(stream), "cuStreamSynchronize"); }
void synchronize() { check(cuCtxSynchronize(), "cuCtxSynchronize"); }

void* make_event() {
    void* event = nullptr;
    check(cuEventCreate(&event, 2), "cuEventCreate");
    return event;
}

void destroy_event(void* event) { check(cuEventDestroy_v2(event), "cuEventDestroy"); }
void record(void* event, void* stream) { check(cuEventRecord(event, stream), "cuEventRecord"); }
void wait(void* stream, void* event) { check(cuStreamWaitEvent(stream, event, 0), "cuStreamWaitEvent"); }

void touch(void* start, uint64_t bytes, uint64_t, void* stream) {
    const auto address = reinterpret_cast<uint64_t>(start);
    check(cuMemsetD8Async(address, 1, 1, stream), "cuMemsetD8Async");
    check(cuMemsetD8Async(address + bytes - 1, 1, 1, stream), "cuMemsetD8Async");
}

uint64_t free_bytes() {
    size_t free = 0, total = 0;
    check(cuMemGetInfo_v2(&free, &total), "cuMemGetInfo");
    return free;
}

}  // namespace device
