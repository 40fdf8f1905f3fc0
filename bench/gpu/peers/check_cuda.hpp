// The CUDA runtime's answers as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

inline void check(cudaError_t answer, const char* call) {
    if (answer == cudaSuccess) return;
    cudaGetLastError();  // Or the next launch would answer it again.
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(answer));
}
