// What the workloads have in common, and their list.
#pragma once

#include "allocator.hpp"

#include <chrono>
#include <cstdint>
#include <exception>
#include <map>
#include <string>
#include <vector>

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Numbers in a sequence that the seed alone decides, the same for every peer.
class Random {
public:
    explicit Random(uint64_t seed) : state(seed) {}
    // 31 bits.
    uint32_t next() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>(state >> 33);
    }
    // In 0..1, without 1.
    double unit() { return next() / 2147483648.0; }

private:
    uint64_t state;
};

// A buffer: one cache line, whatever the peer keeps.
struct alignas(64) Slot {
    void* address = nullptr;
    uint64_t bytes = 0;
    Storage storage;
};
static_assert(sizeof(Slot) == 64);

inline void allocate(Allocator& allocator, Slot& slot, uint64_t bytes, const Stream& stream) {
    slot.address = allocator.allocate(bytes, stream, slot.storage);
    slot.bytes = bytes;
}

inline void free(Allocator& allocator, Slot& slot, const Stream& stream) {
    allocator.free(slot.address, slot.bytes, stream, slot.storage);
    slot.address = nullptr;
}

// An allocator's stream for a time.
class OpenStream {
public:
    explicit OpenStream(Allocator& allocator) : allocator(allocator), stream(allocator.open_stream()) {}
    OpenStream(const OpenStream&) = delete;
    OpenStream& operator=(const OpenStream&) = delete;
    ~OpenStream() { allocator.close_stream(stream); }
    const Stream& operator*() const { return stream; }

private:
    Allocator& allocator;
    Stream stream;
};

// A peer's allocator for one measurement. If that fails it stays, with what nobody has freed: the process ends soon.
class OpenAllocator {
public:
    OpenAllocator(const Peer& peer, uint64_t initial_bytes) : allocator(peer.make({initial_bytes})) {}
    OpenAllocator(const OpenAllocator&) = delete;
    OpenAllocator& operator=(const OpenAllocator&) = delete;
    ~OpenAllocator() {
        if (std::uncaught_exceptions() > 0) (void)allocator.release();
    }
    Allocator& operator*() { return *allocator; }

private:
    std::unique_ptr<Allocator> allocator;
};

// What a measurement is asked for: `name=value` words.
class Arguments {
public:
    explicit Arguments(const std::string& words);
    std::string text(const std::string& name) const;
    std::string text(const std::string& name, const std::string& otherwise) const;
    double number(const std::string& name) const;
    double number(const std::string& name, double otherwise) const;
    uint64_t count(const std::string& name) const { return static_cast<uint64_t>(number(name)); }
    uint64_t count(const std::string& name, uint64_t otherwise) const { return values.count(name) ? count(name) : otherwise; }

private:
    std::map<std::string, std::string> values;
};

// One line of JSON.
class Row {
public:
    Row& text(const std::string& key, const std::string& value);
    Row& number(const std::string& key, double value);
    Row& count(const std::string& key, uint64_t value);
    // `value` is JSON already.
    Row& raw(const std::string& key, const std::string& value);
    std::string json() const { return "{" + fields + "}"; }

private:
    std::string fields;
};

std::string quoted(const std::string& text);

// Each measures one peer once, with an allocator of its own that is gone afterwards, and adds `value` and `unit` and what else
// there is to say to the row. What fails throws.
void first(const Peer& peer, const Arguments& arguments, Row& row);
void pairs(const Peer& peer, const Arguments& arguments, Row& row);
void replay(const Peer& peer, const Arguments& arguments, Row& row);
void multi_stream(const Peer& peer, const Arguments& arguments, Row& row);
void random_allocations(const Peer& peer, const Arguments& arguments, Row& row);
