// The only file that nvcc must compile.
#include "kernels.hpp"

static __global__ void touch(unsigned char* start, uint64_t bytes, uint64_t clocks) {
    const long long begin = clock64();
    start[0] = 1;
    start[bytes - 1] = 1;
    while (static_cast<uint64_t>(clock64() - begin) < clocks) {
    }
}

cudaError_t launch_touch(unsigned char* start, uint64_t bytes, uint64_t clocks, cudaStream_t stream) {
    touch<<<1, 1, 0, stream>>>(start, bytes, clocks);
    return cudaGetLastError();
}
