// Runs a launch on one thread of the CPU: a loop over the threads of a block, or one fiber for each thread of a kernel
// that has barriers. Shared memory is 0xFF (NaN) at the start of every block, and behind it no memory can be read.

#include "launch.h"

#include <cuda.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "memory.h"

extern "C" {
Index3 threadIdx, blockIdx, blockDim, gridDim;
char* gpu_dynamic_shared;
}

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr unsigned kMostThreads = 1024;

struct Fiber {
  ucontext_t context;
  unsigned number;
  bool finished;
};

const char* kernel_name;
void (*thread_body)(void**);
void** thread_arguments;
std::vector<Fiber> fibers(kMostThreads);
Fiber* running_fiber;
ucontext_t scheduler;
sigjmp_buf before_launch;

void select_thread(unsigned number) {
  threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
}

void fiber_main() {
  thread_body(thread_arguments);
  running_fiber->finished = true;
}

void start_fiber(unsigned number) {
  static char* const stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  Fiber& fiber = fibers[number];
  fiber.number = number;
  fiber.finished = false;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stacks + number * kStackBytes;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = &scheduler;
  makecontext(&fiber.context, fiber_main, 0);
}

// Every round lets each thread run to its next barrier, or to its end.
void run_block_of_fibers(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) start_fiber(i);
  for (unsigned left = threads; left > 0;) {
    for (unsigned i = 0; i < threads; ++i) {
      if (fibers[i].finished) continue;
      running_fiber = &fibers[i];
      select_thread(i);
      swapcontext(&scheduler, &running_fiber->context);
      left -= running_fiber->finished;
    }
  }
}

void run_block(const Kernel& kernel, unsigned threads) {
  if (kernel.has_barriers) return run_block_of_fibers(threads);
  for (unsigned i = 0; i < threads; ++i) {
    select_thread(i);
    kernel.thread(thread_arguments);
  }
}

void run_grid(const Launch& launch, const Kernel& kernel) {
  const auto [x, y, z] = launch.grid;
  for (unsigned i = 0; i < x * y * z; ++i) {
    blockIdx = {i % x, i / x % y, i / x / y};
    memset(gpu_dynamic_shared, 0xFF, launch.shared_bytes);
    memset(kernel.shared_begin, 0xFF, kernel.shared_end - kernel.shared_begin);
    run_block(kernel, launch.block.x * launch.block.y * launch.block.z);
  }
}

void on_fault(int, siginfo_t* fault, void*) {
  fprintf(stderr, "[gpu_without_gpu] %s: illegal address %p, block (%u,%u,%u), thread (%u,%u,%u)\n", kernel_name,
          fault->si_addr, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  siglongjmp(before_launch, CUDA_ERROR_ILLEGAL_ADDRESS);
}

// Catches faults while it lives; then the handlers of others (faulthandler) are back.
class FaultCatcher {
 public:
  FaultCatcher() {
    static char stack[64 << 10];
    const stack_t ours = {stack, 0, sizeof stack};
    sigaltstack(&ours, &stack_before_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &action_before_);
  }
  ~FaultCatcher() {
    sigaction(SIGSEGV, &action_before_, nullptr);
    sigaltstack(&stack_before_, nullptr);
  }

 private:
  stack_t stack_before_;
  struct sigaction action_before_;
};

}  // namespace

extern "C" void gpu_barrier() { swapcontext(&running_fiber->context, &scheduler); }

int run_launch(const char* name, const Launch& launch, const Kernel& kernel, void** arguments) {
  kernel_name = name;
  running_fiber = nullptr;
  thread_body = kernel.thread;
  thread_arguments = arguments;
  gridDim = launch.grid;
  blockDim = launch.block;
  const FencedMemory dynamic_shared(launch.shared_bytes);
  gpu_dynamic_shared = dynamic_shared.start;
  const FaultCatcher catcher;
  const int error = sigsetjmp(before_launch, 1);
  if (error == 0) run_grid(launch, kernel);
  return error;
}
