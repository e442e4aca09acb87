// Included before every kernel: what NVRTC knows of device code, said in C++ for this machine's CPU.
#pragma once

// NVIDIA's headers of half precision need the keywords as they define them; below they get our meaning.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "launch.h"

#define __CUDACC_VER_MAJOR__ 12
#undef __host__
#undef __device__
#undef __global__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __align__
#define __host__
#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Shared variables get a section of their own, so that it can be spoiled before each block.
#define __shared__ static __attribute__((section("gpu_shared")))
#define __syncthreads() gpu_barrier()

extern "C" {
extern char __start_gpu_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_gpu_shared[] __attribute__((weak, visibility("hidden")));
}

// Unpacks the driver's array of pointers to arguments: one call is one thread of the GPU.
template <auto kernel, class Signature = decltype(kernel)>
struct Unpacked;

template <auto kernel, class... Arguments>
struct Unpacked<kernel, void (*)(Arguments...)> {
  static void thread(void** arguments) { call(arguments, std::index_sequence_for<Arguments...>{}); }

  template <size_t... position>
  static void call(void** arguments, std::index_sequence<position...>) {
    kernel(*static_cast<std::remove_reference_t<Arguments>*>(arguments[position])...);
  }
};

#define GPU_KERNEL(symbol, kernel, has_barriers) \
  extern "C" Kernel symbol;                      \
  Kernel symbol = {Unpacked<&kernel>::thread, has_barriers, __start_gpu_shared, __stop_gpu_shared};

// ---- functions of device code that the C++ library lacks, or that differ from it ----

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
static inline float rsqrt(float x) { return 1 / std::sqrt(x); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
static inline float min(float a, float b) { return std::fmin(a, b); }
static inline float max(float a, float b) { return std::fmax(a, b); }
static inline double min(double a, double b) { return std::fmin(a, b); }
static inline double max(double a, double b) { return std::fmax(a, b); }

template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
T min(T a, T b) {
  return b < a ? b : a;
}

template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
T max(T a, T b) {
  return a < b ? b : a;
}

template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}

static inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
static inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
static inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
static inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }

// Threads take turns, so plain reads and writes are atomic.
template <class T>
T atomicAdd(T* pointer, T value) {
  return std::exchange(*pointer, *pointer + value);
}

template <class T>
T atomicCAS(T* pointer, T expected, T value) {
  return *pointer == expected ? std::exchange(*pointer, value) : *pointer;
}

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
