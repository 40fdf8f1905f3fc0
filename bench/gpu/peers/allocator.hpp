// What every peer is to the harness. One virtual call to allocate and one to free, for all of them.
#pragma once

#include "device.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// A stream as the workloads hold it, and what the allocator needs to know it by.
struct Stream {
    void* cuda = nullptr;
    void* own = nullptr;
};

// Room for what an allocator's caller keeps with an address. Where a handle is more than that, the room is all it gets.
struct Storage {
    alignas(8) std::byte bytes[48];
};

class Allocator {
public:
    Allocator() = default;
    Allocator(const Allocator&) = delete;
    Allocator& operator=(const Allocator&) = delete;
    // Gives all memory back to the driver. The workload has freed everything and closed its streams.
    virtual ~Allocator() = default;

    virtual Stream open_stream() { return {device::make_stream(), nullptr}; }
    virtual void close_stream(const Stream& stream) { device::destroy_stream(stream.cuda); }

    // Memory to be used on `stream` at once, aligned to 256 bytes. Throws where there is none.
    virtual void* allocate(uint64_t bytes, const Stream& stream, Storage& storage) = 0;
    // Frees what was used on the stream that it was allocated on, and nowhere else.
    virtual void free(void* address, uint64_t bytes, const Stream& stream, Storage& storage) = 0;
    // Frees what was allocated on `home` and used last on `last`, which has been made to wait for `home`: in the way that the
    // allocator has for that.
    virtual void free_after(void* address, uint64_t bytes, const Stream& home, const Stream& last, Storage& storage) = 0;

    // Gives what nobody holds back to the driver, as far as the allocator does that.
    virtual void trim() = 0;
};

struct Setup {
    // What an allocator that can begin with memory should begin with; 0: as little as it can.
    uint64_t initial_bytes = 0;
};

struct Peer {
    std::string name;
    // Version and mode, for people.
    std::string description;
    // Whether it has a fixed size, so that `initial_bytes` is all it will ever have.
    bool is_fixed;
    std::unique_ptr<Allocator> (*make)(const Setup&);
};

// Those in this program: each has the peers of one library, in a file of its own. The device is open.
std::vector<Peer> peers();
