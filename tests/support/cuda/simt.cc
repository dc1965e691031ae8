#include "tests/support/cuda/simt.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace muond::simt {

Fiber* current = nullptr;
Index block, grid, dim;

namespace {

constexpr size_t kStackBytes = 1 << 17;
constexpr int kIdleTurns = 1'000'000;  // threads that wait for each other for ever

ucontext_t scheduler;
const std::function<void()>* running = nullptr;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
unsigned arrived = 0, generation = 0;  // of the CTA

void Yield() { swapcontext(&current->context, &scheduler); }

void Enter() {
  (*running)();
  current->done = true;
  Yield();
}

void RunBlock(int threads) {
  warps.assign(static_cast<size_t>(threads) / 32, {});
  arrived = 0;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = *fibers[static_cast<size_t>(i)];
    fiber.thread = {static_cast<unsigned>(i), 0, 0};
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, Enter, 0);
  }
  int alive = threads, idle = 0;
  for (unsigned turn = 0; alive > 0; ++turn) {
    const int before = alive;
    for (int i = 0; i < threads; ++i) {
      Fiber* const fiber = fibers[static_cast<size_t>(turn % 2 == 0 ? i : threads - 1 - i)].get();
      if (fiber->done) continue;
      current = fiber;
      swapcontext(&scheduler, &fiber->context);
      alive -= fiber->done;
    }
    idle = alive == before ? idle + 1 : 0;
    if (idle > kIdleTurns) {
      std::fprintf(stderr, "%d threads of CTA %u wait for others that do not come\n", alive,
                   block.x);
      std::abort();
    }
  }
}

}  // namespace

Warp& MyWarp() { return warps[current->thread.x / 32]; }

void MeetWarp() {
  Warp& warp = MyWarp();
  const unsigned mine = warp.generation;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.generation;
  }
  while (warp.generation == mine) Yield();
}

void MeetBlock() {
  const unsigned mine = generation;
  if (++arrived == dim.x) {
    arrived = 0;
    ++generation;
  }
  while (generation == mine) Yield();
}

void Launch(int64_t ctas, int threads, const std::function<void()>& body) {
  running = &body;
  grid = {static_cast<unsigned>(ctas), 1, 1};
  dim = {static_cast<unsigned>(threads), 1, 1};
  while (fibers.size() < static_cast<size_t>(threads)) {
    fibers.push_back(std::make_unique<Fiber>());
    fibers.back()->stack.resize(kStackBytes);
  }
  for (unsigned cta = 0; cta < grid.x; ++cta) {
    block = {cta, 0, 0};
    RunBlock(threads);
  }
}

}  // namespace muond::simt
