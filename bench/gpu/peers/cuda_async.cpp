// The driver's own pool: cudaMallocAsync, told to keep what is freed.
#include "allocator.hpp"
#include "check_cuda.hpp"

namespace {

class CudaAsync final : public Allocator {
public:
    explicit CudaAsync(const Setup& setup) {
        check(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool");
        uint64_t keep = UINT64_MAX;
        check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
        if (setup.initial_bytes > 0) warm(setup.initial_bytes);
    }

    ~CudaAsync() override {
        cudaDeviceSynchronize();
        cudaMemPoolTrimTo(pool, 0);
    }

    void* allocate(uint64_t bytes, const Stream& stream, Storage&) override {
        void* address = nullptr;
        check(cudaMallocAsync(&address, bytes, static_cast<cudaStream_t>(stream.cuda)), "cudaMallocAsync");
        return address;
    }

    void free(void* address, uint64_t, const Stream& stream, Storage&) override {
        check(cudaFreeAsync(address, static_cast<cudaStream_t>(stream.cuda)), "cudaFreeAsync");
    }

    void free_after(void* address, uint64_t bytes, const Stream&, const Stream& last, Storage& storage) override {
        free(address, bytes, last, storage);
    }

    void trim() override {
        check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        check(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
    }

private:
    // The pool keeps what it got for one large allocation, as the others keep what they begin with.
    void warm(uint64_t bytes) {
        const Stream stream = open_stream();
        Storage storage;
        free(allocate(bytes, stream, storage), bytes, stream, storage);
        device::synchronize(stream.cuda);
        close_stream(stream);
    }

    cudaMemPool_t pool = nullptr;
};

}  // namespace

std::vector<Peer> peers() {
    int version = 0;
    check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
    const auto description = "cudaMallocAsync, default pool, release threshold raised, runtime " + std::to_string(version);
    return {{"cuda_async", description, false,
             [](const Setup& setup) -> std::unique_ptr<Allocator> { return std::make_unique<CudaAsync>(setup); }}};
}
