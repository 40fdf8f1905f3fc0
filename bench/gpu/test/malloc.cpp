// A peer for tests of the harness: malloc, which is told every size again when it frees, and counts.
#include "../peers/allocator.hpp"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace device {
extern std::atomic<uint64_t> used_bytes;
}

namespace {

class Malloc final : public Allocator {
public:
    // With buffers left the harness has lost one, and the process ends.
    ~Malloc() override {
        if (live != 0) std::abort();
    }

    void* allocate(uint64_t bytes, const Stream&, Storage& storage) override {
        if (bytes > limit_bytes) throw std::bad_alloc();
        void* address = std::malloc(bytes);
        std::memcpy(&storage, &address, sizeof address);
        std::memcpy(reinterpret_cast<std::byte*>(&storage) + 8, &bytes, sizeof bytes);
        take(bytes);
        live++;
        return address;
    }

    void free(void* address, uint64_t bytes, const Stream&, Storage& storage) override {
        void* kept = nullptr;
        uint64_t kept_bytes = 0;
        std::memcpy(&kept, &storage, sizeof kept);
        std::memcpy(&kept_bytes, reinterpret_cast<std::byte*>(&storage) + 8, sizeof kept_bytes);
        if (kept != address || kept_bytes != bytes) std::abort();
        std::free(address);
        device::used_bytes -= bytes;
        live--;
    }

    void free_after(void* address, uint64_t bytes, const Stream&, const Stream& last, Storage& storage) override {
        free(address, bytes, last, storage);
    }

    void trim() override {}

    uint64_t limit_bytes = UINT64_MAX;

private:
    // Where more is held than ever before, a driver would have been called, which takes its time.
    void take(uint64_t bytes) {
        const uint64_t used = device::used_bytes += bytes;
        if (used <= most) return;
        most = used;
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < std::chrono::microseconds(5)) {
        }
    }

    std::atomic<int64_t> live{0};
    std::atomic<uint64_t> most{0};
};

}  // namespace

std::vector<Peer> peers() {
    auto make = [](const Setup&) -> std::unique_ptr<Allocator> { return std::make_unique<Malloc>(); };
    // A fixed size that only some of what is tried fits.
    auto make_fixed = [](const Setup& setup) -> std::unique_ptr<Allocator> {
        auto fixed = std::make_unique<Malloc>();
        fixed->limit_bytes = setup.initial_bytes / 2;
        return fixed;
    };
    return {{"malloc", "malloc", false, make}, {"fixed", "malloc that refuses", true, make_fixed}};
}
