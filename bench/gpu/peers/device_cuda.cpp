#include "device.hpp"

#include "check_cuda.hpp"
#include "kernels.hpp"

namespace device {

const bool has_streams = true;

static cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
static cudaEvent_t as_event(void* event) { return static_cast<cudaEvent_t>(event); }

void open() {
    check(cudaSetDevice(0), "cudaSetDevice");
    check(cudaFree(nullptr), "cudaFree(nullptr), to make the context");
}

void use_on_this_thread() { check(cudaSetDevice(0), "cudaSetDevice"); }

std::string name() {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    int driver = 0;
    check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    return std::string(properties.name) + ", CUDA driver " + std::to_string(driver);
}

void* make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return stream;
}

void destroy_stream(void* stream) { check(cudaStreamDestroy(as_stream(stream)), "cudaStreamDestroy"); }
void synchronize(void* stream) { check(cudaStreamSynchronize(as_stream(stream)), "cudaStreamSynchronize"); }
void synchronize() { check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

void* make_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    return event;
}

void destroy_event(void* event) { check(cudaEventDestroy(as_event(event)), "cudaEventDestroy"); }
void record(void* event, void* stream) { check(cudaEventRecord(as_event(event), as_stream(stream)), "cudaEventRecord"); }
void wait(void* stream, void* event) {
    check(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0), "cudaStreamWaitEvent");
}

void touch(void* start, uint64_t bytes, uint64_t clocks, void* stream) {
    check(launch_touch(static_cast<unsigned char*>(start), bytes, clocks, as_stream(stream)), "the touching kernel");
}

uint64_t free_bytes() {
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
}

}  // namespace device
