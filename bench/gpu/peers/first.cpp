// From an allocator's creation to its first buffer, where the device has been opened already.
#include "harness.hpp"

void first(const Peer& peer, const Arguments& arguments, Row& row) {
    const uint64_t bytes = arguments.count("bytes");
    const auto begin = Clock::now();
    OpenAllocator allocator(peer, arguments.count("initial_bytes", 0));
    OpenStream stream(*allocator);
    Slot slot;
    allocate(*allocator, slot, bytes, *stream);
    // An allocation that the stream still has to come to is not done.
    device::synchronize((*stream).cuda);
    const double seconds = seconds_since(begin);
    free(*allocator, slot, *stream);
    device::synchronize((*stream).cuda);
    row.number("value", seconds * 1e3).text("unit", "ms");
}
