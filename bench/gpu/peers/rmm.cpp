// RMM's resources over cudaMalloc, and its own front of cudaMallocAsync.
#include "allocator.hpp"

#include <rmm/mr/arena_memory_resource.hpp>
#include <rmm/mr/binning_memory_resource.hpp>
#include <rmm/mr/cuda_async_memory_resource.hpp>
#include <rmm/mr/cuda_memory_resource.hpp>
#include <rmm/mr/pool_memory_resource.hpp>

#include <optional>

namespace {

constexpr std::size_t ALIGNMENT = 256;

cuda::stream_ref as_stream(const Stream& stream) { return cuda::stream_ref{static_cast<cudaStream_t>(stream.cuda)}; }

template <class Resource>
class Rmm final : public Allocator {
public:
    template <class... Arguments>
    explicit Rmm(Arguments&&... arguments) : resource(std::forward<Arguments>(arguments)...) {}

    ~Rmm() override { device::synchronize(); }

    void* allocate(uint64_t bytes, const Stream& stream, Storage&) override {
        return resource.allocate(as_stream(stream), bytes, ALIGNMENT);
    }

    void free(void* address, uint64_t bytes, const Stream& stream, Storage&) override {
        resource.deallocate(as_stream(stream), address, bytes, ALIGNMENT);
    }

    // Documented as the way, provided that `last` comes after `home`.
    void free_after(void* address, uint64_t bytes, const Stream&, const Stream& last, Storage& storage) override {
        free(address, bytes, last, storage);
    }

    // No resource has one: what a pool got it keeps until its end.
    void trim() override {}

private:
    Resource resource;
};

std::unique_ptr<Allocator> make_pool(const Setup& setup) {
    using rmm::mr::pool_memory_resource;
    return std::make_unique<Rmm<pool_memory_resource>>(rmm::mr::cuda_memory_resource{}, setup.initial_bytes);
}

std::unique_ptr<Allocator> make_arena(const Setup& setup) {
    // Without a size it takes half of the device.
    const auto bytes = setup.initial_bytes > 0 ? std::optional<std::size_t>(setup.initial_bytes) : std::nullopt;
    return std::make_unique<Rmm<rmm::mr::arena_memory_resource>>(rmm::mr::cuda_memory_resource{}, bytes);
}

// Bins of 256 B to 1 MiB in powers of two; what is larger goes to the pool.
std::unique_ptr<Allocator> make_binning(const Setup& setup) {
    rmm::mr::pool_memory_resource pool(rmm::mr::cuda_memory_resource{}, setup.initial_bytes);
    return std::make_unique<Rmm<rmm::mr::binning_memory_resource>>(pool, std::int8_t{8}, std::int8_t{20});
}

std::unique_ptr<Allocator> make_async(const Setup& setup) {
    const auto initial = setup.initial_bytes > 0 ? std::optional<std::size_t>(setup.initial_bytes) : std::nullopt;
    const std::optional<std::size_t> keep_all(SIZE_MAX);
    return std::make_unique<Rmm<rmm::mr::cuda_async_memory_resource>>(initial, keep_all);
}

}  // namespace

std::vector<Peer> peers() {
    const std::string version = RMM_VERSION_TEXT;
    return {
        {"rmm_pool", "RMM " + version + ", pool over cudaMalloc", false, make_pool},
        {"rmm_arena", "RMM " + version + ", arena over cudaMalloc", true, make_arena},
        {"rmm_binning", "RMM " + version + ", binning 256 B..1 MiB over pool", false, make_binning},
        {"rmm_async", "RMM " + version + ", cuda_async", false, make_async},
    };
}
