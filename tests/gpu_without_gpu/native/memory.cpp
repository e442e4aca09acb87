// Device memory of the simulated runtime: what may be touched, by which copy, and how much of it there is.

#include "memory.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kTotalBytes = size_t{8} << 30;

struct Allocation {
  std::unique_ptr<FencedMemory> memory;
  int device;
};

std::map<const char*, Allocation> allocations;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

cudaError_t copy(void* target, const void* source, size_t size) {
  const bool from_host = device_of(source) < 0, to_host = device_of(target) < 0;
  if (!from_host && to_host && gpu_forbid_copies_to_host) return cudaErrorNotPermitted;
  long& counter = from_host ? gpu_counters.copies_to_device
                  : to_host ? gpu_counters.copies_to_host
                            : gpu_counters.copies_on_device;
  ++counter;
  memmove(target, source, size);
  return cudaSuccess;
}

}  // namespace

FencedMemory::FencedMemory(size_t size) : size(size) {
  const size_t usable = round_up(size, 16);
  page_bytes_ = round_up(usable, kPage) + kPage;
  pages_ = static_cast<char*>(mmap(nullptr, page_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (pages_ == MAP_FAILED) abort();
  mprotect(pages_ + page_bytes_ - kPage, kPage, PROT_NONE);
  memset(pages_, 0xFF, page_bytes_ - kPage);
  start = pages_ + page_bytes_ - kPage - usable;
}

// A mapping without rights in the same place keeps the addresses taken; neighbours of the kind merge, so the operating
// system's table of mappings does not grow.
FencedMemory::~FencedMemory() {
  mmap(pages_, page_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

int device_of(const void* address) {
  const auto* byte = static_cast<const char*>(address);
  const auto next = allocations.upper_bound(byte);
  if (next == allocations.begin()) return -1;
  const Allocation& found = std::prev(next)->second;
  return byte < found.memory->start + found.memory->size ? found.device : -1;
}

extern "C" {

Counters gpu_counters = {};
int gpu_forbid_copies_to_host = 0;

cudaError_t cudaMalloc(void** pointer, size_t size) {
  if (gpu_counters.bytes_in_use + size > kTotalBytes) return cudaErrorMemoryAllocation;
  auto memory = std::make_unique<FencedMemory>(size);
  char* const start = memory->start;
  *pointer = start;
  allocations[start] = {std::move(memory), current_device()};
  ++gpu_counters.allocations;
  gpu_counters.bytes_in_use += size;
  gpu_counters.peak_bytes = std::max(gpu_counters.peak_bytes, gpu_counters.bytes_in_use);
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  const auto found = allocations.find(static_cast<char*>(pointer));
  if (found == allocations.end()) return pointer ? cudaErrorInvalidValue : cudaSuccess;
  gpu_counters.bytes_in_use -= found->second.memory->size;
  allocations.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = kTotalBytes;
  *free_bytes = kTotalBytes - gpu_counters.bytes_in_use;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned) {
  *pointer = malloc(size);
  return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void* pointer) {
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t size, cudaMemcpyKind) {
  return copy(target, source, size);
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t size, cudaMemcpyKind, cudaStream_t) {
  return copy(target, source, size);
}

cudaError_t cudaMemset(void* target, int value, size_t size) {
  memset(target, value, size);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t size, cudaStream_t) {
  return cudaMemset(target, value, size);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const int device = device_of(pointer);
  *attributes = {};
  attributes->type = device < 0 ? cudaMemoryTypeUnregistered : cudaMemoryTypeDevice;
  attributes->device = device;
  attributes->devicePointer = device < 0 ? nullptr : const_cast<void*>(pointer);
  return cudaSuccess;
}

}  // extern "C"
