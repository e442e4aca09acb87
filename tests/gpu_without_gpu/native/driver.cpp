// libcuda.so.1 as CuPy uses it: modules, functions, and launches that a real device would take.
//
// A module's image is the name of a library that compiler.py has put into CuPy's folder of kernels.

#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "launch.h"
#include "memory.h"

namespace {

constexpr unsigned kSharedBytes = 48 << 10;
constexpr unsigned kSharedBytesOnRequest = 227 << 10;

struct Function {
  std::string name;
  const Kernel* kernel;
  unsigned shared_limit;
};

bool is_possible(const Launch& launch, unsigned shared_limit) {
  const auto [grid_x, grid_y, grid_z] = launch.grid;
  const auto [x, y, z] = launch.block;
  return grid_x > 0 && grid_y > 0 && grid_z > 0 && x > 0 && y > 0 && z > 0 && grid_x <= 2147483647u &&
         grid_y <= 65535 && grid_z <= 65535 && x <= 1024 && y <= 1024 && z <= 64 && x * y * z <= 1024 &&
         launch.shared_bytes <= shared_limit;
}

}  // namespace

extern "C" {

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case CUDA_ERROR_INVALID_VALUE:
      *name = "CUDA_ERROR_INVALID_VALUE";
      break;
    case CUDA_ERROR_NOT_FOUND:
      *name = "CUDA_ERROR_NOT_FOUND";
      break;
    case CUDA_ERROR_ILLEGAL_ADDRESS:
      *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
      break;
    default:
      *name = "CUDA_ERROR_UNKNOWN";
  }
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult, const char** text) {
  *text = "on a simulated device";
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = reinterpret_cast<CUcontext>(1);
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  const std::string path = std::string(getenv("CUPY_CACHE_DIR")) + "/" + static_cast<const char*>(image);
  *module = static_cast<CUmodule>(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (*module) return CUDA_SUCCESS;
  fprintf(stderr, "[gpu_without_gpu] %s\n", dlerror());
  return CUDA_ERROR_INVALID_IMAGE;
}

CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  const void* kernel = dlsym(module, (std::string("gpu_kernel_") + name).c_str());
  if (!kernel) return CUDA_ERROR_NOT_FOUND;
  *function = reinterpret_cast<CUfunction>(new Function{name, static_cast<const Kernel*>(kernel), kSharedBytes});
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value < 0 || static_cast<unsigned>(value) > kSharedBytesOnRequest) return CUDA_ERROR_INVALID_VALUE;
  reinterpret_cast<Function*>(function)->shared_limit = value;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** arguments,
                        void**) {
  const auto& [name, kernel, shared_limit] = *reinterpret_cast<Function*>(function);
  const Launch launch = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
  if (!is_possible(launch, shared_limit)) return CUDA_ERROR_INVALID_VALUE;
  count_launch(stream);
  return static_cast<CUresult>(run_launch(name.c_str(), launch, *kernel, arguments));
}

}  // extern "C"
