// What a compiled kernel and the simulated device know of each other.
#pragma once

struct Index3 {
  unsigned x, y, z;
};

struct Launch {
  Index3 grid, block;
  unsigned shared_bytes;
};

struct Kernel {
  void (*thread)(void** arguments);  // runs one thread of the GPU, up to its end
  bool has_barriers;
  char *shared_begin, *shared_end;  // its variables in shared memory
};

extern "C" {
extern Index3 threadIdx, blockIdx, blockDim, gridDim;
extern char* gpu_dynamic_shared;
void gpu_barrier();
}

// Runs all blocks, one thread after the other. Returns 0, or the driver's code for an access to foreign memory.
int run_launch(const char* name, const Launch& launch, const Kernel& kernel, void** arguments);
