#include "trace.hpp"

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

namespace {

struct Line {
    double t_us;
    char op;
    uint64_t id;
    uint64_t bytes;
    int64_t stream;
};

std::vector<Line> read_lines(const std::string& path) {
    std::ifstream file(path);
    std::string text;
    if (!std::getline(file, text) || text.rfind("t_us,op,id,bytes,stream", 0) != 0) {
        throw std::runtime_error(path + " is no trace: it does not begin with t_us,op,id,bytes,stream");
    }
    std::vector<Line> lines;
    while (std::getline(file, text)) {
        Line line{};
        const int read = std::sscanf(text.c_str(), "%lf,%c,%" SCNu64 ",%" SCNu64 ",%" SCNd64, &line.t_us, &line.op, &line.id,
                                     &line.bytes, &line.stream);
        if (read != 5) throw std::runtime_error(path + ": no event: " + text);
        lines.push_back(line);
    }
    return lines;
}

struct Live {
    uint32_t slot;
    uint32_t stream;
    uint64_t bytes;
};

}  // namespace

Trace read_trace(const std::string& path) {
    const auto lines = read_lines(path);
    if (lines.empty()) throw std::runtime_error(path + " has no events");
    std::unordered_set<uint64_t> completed_later;
    for (const auto& line : lines) {
        if (line.op == 'c') completed_later.insert(line.id);
    }
    Trace trace;
    trace.recorded_seconds = (lines.back().t_us - lines.front().t_us) / 1e6;
    std::unordered_map<int64_t, uint32_t> streams;
    std::unordered_map<uint64_t, Live> live;
    std::vector<uint32_t> empty;
    uint64_t requested_bytes = 0;
    for (const auto& line : lines) {
        if (line.op == 'a') {
            const auto stream = streams.try_emplace(line.stream, static_cast<uint32_t>(streams.size())).first->second;
            if (empty.empty()) empty.push_back(trace.slot_count++);
            const uint64_t bytes = line.bytes > 0 ? line.bytes : 1;
            live[line.id] = {empty.back(), stream, bytes};
            trace.events.push_back({bytes, empty.back(), stream});
            empty.pop_back();
            trace.allocation_count++;
            requested_bytes += bytes;
            if (requested_bytes > trace.peak_requested_bytes) trace.peak_requested_bytes = requested_bytes;
            continue;
        }
        const auto found = live.find(line.id);
        if (found == live.end()) continue;  // Allocated before the recording began.
        if (line.op == 'f') requested_bytes -= found->second.bytes;
        if (line.op == 'f' && completed_later.count(line.id)) continue;
        trace.events.push_back({0, found->second.slot, found->second.stream});
        empty.push_back(found->second.slot);
        live.erase(found);
    }
    trace.stream_count = static_cast<uint32_t>(streams.size());
    return trace;
}
