#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// See device::touch.
cudaError_t launch_touch(unsigned char* start, uint64_t bytes, uint64_t clocks, cudaStream_t stream);
