// What the workloads need of a device. device_cuda.cpp is the real one; test/device_fake.cpp has no device behind it.
#pragma once

#include <cstdint>
#include <string>

namespace device {

// Whether work goes through streams, so that an allocator without them measures something else.
extern const bool has_streams;

// Makes the device ready, and current on the calling thread.
void open();
// Makes it current on another thread.
void use_on_this_thread();
std::string name();

// A stream that does not wait for the default one: a CUstream.
void* make_stream();
void destroy_stream(void* stream);
// Waits for one stream, or for all that the device was given.
void synchronize(void* stream);
void synchronize();

// Something that streams wait for.
void* make_event();
void destroy_event(void* event);
void record(void* event, void* stream);
void wait(void* stream, void* event);

// A kernel of one thread that writes the first and the last byte and then spins for `clocks` of the multiprocessor.
void touch(void* start, uint64_t bytes, uint64_t clocks, void* stream);

// What the driver says is free, of all processes.
uint64_t free_bytes();

}  // namespace device
