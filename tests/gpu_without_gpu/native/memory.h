// Memory with a fence, and what the simulated device counts.
#pragma once

#include <cstddef>

// Starts as 0xFF (NaN as a float, -1 as an integer) and ends, rounded up to 16 bytes, at a page that cannot be accessed.
// Its addresses are never used again: a late access is always a fault.
struct FencedMemory {
  explicit FencedMemory(size_t size);
  ~FencedMemory();
  FencedMemory(const FencedMemory&) = delete;

  char* start;
  size_t size;

 private:
  char* pages_;
  size_t page_bytes_;
};

// Read by traffic.py, field by field in this order.
struct Counters {
  long copies_to_host, copies_to_device, copies_on_device, synchronisations;
  long launches, launches_on_default_stream, allocations, bytes_in_use, peak_bytes;
};

extern "C" {
extern Counters gpu_counters;
extern int gpu_forbid_copies_to_host;
}

int current_device();

// The device whose memory holds the address, or -1.
int device_of(const void* address);

inline void count_launch(const void* stream) {
  ++gpu_counters.launches;
  gpu_counters.launches_on_default_stream += stream == nullptr;
}
