// A process that measures when it is told to. Standard input: `workload peer=NAME name=value …`, one measurement a line;
// standard output: one line of JSON for each, after one that says who this is. After a failure the process ends, since the
// allocator may be left with memory that nobody frees.
#include "harness.hpp"

#include <cstdlib>
#include <iostream>
#include <stdexcept>

namespace {

using Workload = void (*)(const Peer&, const Arguments&, Row&);

const std::map<std::string, Workload> WORKLOADS = {
    {"first", first}, {"pairs", pairs}, {"replay", replay}, {"multi_stream", multi_stream}, {"random_allocations", random_allocations}};

void say(const Row& row) { std::cout << row.json() << std::endl; }

void introduce(const std::vector<Peer>& all) {
    std::string list;
    for (const auto& peer : all) {
        Row one;
        one.text("peer", peer.name).text("description", peer.description).raw("is_fixed", peer.is_fixed ? "true" : "false");
        list += (list.empty() ? "" : ",") + one.json();
    }
    say(Row().text("device", device::name()).raw("peers", "[" + list + "]"));
}

void measure(const std::vector<Peer>& all, const std::string& workload, const Arguments& arguments, Row& row) {
    const auto found = WORKLOADS.find(workload);
    if (found == WORKLOADS.end()) throw std::runtime_error("there is no workload " + workload);
    for (const auto& peer : all) {
        if (peer.name == arguments.text("peer")) return found->second(peer, arguments, row);
    }
    throw std::runtime_error("there is no peer " + arguments.text("peer") + " in this program");
}

}  // namespace

int main() try {
    device::open();
    const auto all = peers();
    introduce(all);
    std::string line;
    while (std::getline(std::cin, line)) {
        const auto space = line.find(' ');
        Row row;
        try {
            measure(all, line.substr(0, space), Arguments(space == std::string::npos ? "" : line.substr(space)), row);
        } catch (const std::exception& failure) {
            say(row.text("failed", failure.what()));
            std::_Exit(3);
        }
        say(row);
    }
    return 0;
} catch (const std::exception& failure) {
    std::cerr << failure.what() << std::endl;
    return 2;
}
