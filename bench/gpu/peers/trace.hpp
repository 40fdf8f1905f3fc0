// A recorded run: which buffers a program allocated and freed, in order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct TraceEvent {
    // 0 for a free.
    uint64_t bytes;
    // Which of `slot_count` places holds the buffer; places are used again.
    uint32_t slot;
    // Which of `stream_count` streams it was allocated on.
    uint32_t stream;
};

struct Trace {
    std::vector<TraceEvent> events;
    uint32_t slot_count = 0;
    uint32_t stream_count = 0;
    uint64_t allocation_count = 0;
    // The most bytes asked for and not yet asked to be freed.
    uint64_t peak_requested_bytes = 0;
    // From the first event to the last.
    double recorded_seconds = 0;
};

// Reads `t_us,op,id,bytes,stream` with a header. A buffer is freed where the trace says that its free completed (`c`), or, if
// there is no such line, where it was asked for (`f`).
Trace read_trace(const std::string& path);
