// Calls of the CUDA driver, whoever makes them: the allocator, or the CUDA runtime for it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// Counts from its making until it is stopped, on all threads. One at a time. A call within a call is the outer one's.
class DriverCalls {
public:
    struct Function {
        std::string name;
        uint64_t calls;
        double seconds;
    };
    struct Total {
        uint64_t calls = 0;
        double seconds = 0;
        // The longest in sum first.
        std::vector<Function> functions;
    };

    // Throws where calls cannot be counted.
    DriverCalls();
    ~DriverCalls();
    DriverCalls(const DriverCalls&) = delete;
    DriverCalls& operator=(const DriverCalls&) = delete;

    Total stop();

private:
    struct Subscription;
    std::unique_ptr<Subscription> subscription;
};
