// PyTorch's caching allocator, from C++. PYTORCH_ALLOC_CONF chooses its mode for the whole process.
#include "allocator.hpp"

#include <c10/core/AllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>

#include <mutex>

// In libc10_cuda.so, declared in none of its headers.
namespace c10::cuda::_internal {
void setHasPrimaryContext(bool (*has)(DeviceIndex));
}

namespace {

namespace caching = c10::cuda::CUDACachingAllocator;

cudaStream_t as_stream(const Stream& stream) { return static_cast<cudaStream_t>(stream.cuda); }

bool is_expandable() { return c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments(); }

class Torch final : public Allocator {
public:
    ~Torch() override {
        release();
        for (void* stream : closed) device::destroy_stream(stream);
    }

    // Streams last until their memory is back: before it unmaps an expandable segment, PyTorch waits for the stream that the
    // segment was made for. Its own streams it never destroys.
    void close_stream(const Stream& stream) override {
        const std::lock_guard lock(closing);
        closed.push_back(stream.cuda);
    }

    void* allocate(uint64_t bytes, const Stream& stream, Storage&) override {
        return caching::raw_alloc_with_stream(bytes, as_stream(stream));
    }

    void free(void* address, uint64_t, const Stream&, Storage&) override { caching::raw_delete(address); }

    void free_after(void* address, uint64_t, const Stream&, const Stream& last, Storage&) override {
        // Tensors are recorded by what owns their memory, so it is owned for a moment.
        const c10::Device device(c10::DeviceType::CUDA, 0);
        c10::DataPtr owner(address, address, caching::get()->raw_deleter(), device);
        caching::recordStream(owner, c10::cuda::getStreamFromExternal(as_stream(last), 0));
        // Dropping the owner frees.
    }

    void trim() override { release(); }

private:
    // Twice: the first call takes in what recorded streams have passed.
    static void release() {
        device::synchronize();
        caching::emptyCache();
        caching::emptyCache();
    }

    std::mutex closing;
    std::vector<void*> closed;
};

}  // namespace

std::vector<Peer> peers() {
    static const bool is_ready = [] {
        caching::init(1);
        // As libtorch_cuda.so does, which is not loaded here. The device is open, so there is a context.
        c10::cuda::_internal::setHasPrimaryContext([](c10::DeviceIndex) { return true; });
        return true;
    }();
    (void)is_ready;
    const std::string mode = is_expandable() ? "expandable_segments:True" : "native";
    const std::string version = TORCH_VERSION_TEXT;
    return {{is_expandable() ? "torch_expandable" : "torch_native",
             "PyTorch " + version + ", caching allocator '" + caching::name() + "', " + mode, false,
             [](const Setup&) -> std::unique_ptr<Allocator> { return std::make_unique<Torch>(); }}};
}
