// Scatterer: copies new parameters from their staged places to every holder, then sets the holders' ready cells.
// Copy-out is plain stores of the same bytes: repeating it changes nothing, which is what recovery does.
// Threads: the StepLoop enqueues.   Memory: nothing is allocated here after the first group of a size.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/ops/ops.h"

namespace muond {

// One holder of an item: its rank's cell, and for each run of rows the blocks of its parameter slab.
inline constexpr uint32_t kExchangeHolder = 0xffffffff;

struct Holder {
  uint32_t rank = 0;  // kExchangeHolder: the exchange slab, for the holders of other daemons
  Cell* ready = nullptr;
  std::vector<std::vector<Block>> runs;
};

struct CopyOut {
  std::vector<Holder> holders;
  std::vector<ScatterTask>
      tasks;      // one a run, to all holders: built by Finish; `source.data` is set per step
  void Finish();  // builds `tasks` from `holders`; sources get their shapes from `shapes`
  std::vector<Matrix> shapes;  // of each run, as it lies in the place
};

class Scatterer {
 public:
  // Copies every run of every item to all holders.
  void Run(Ops& ops, Stream& stream, absl::Span<CopyOut* const> items);
  // The same for one holder of one item.
  void RunHolder(Ops& ops, Stream& stream, const CopyOut& item, const Holder& holder);

 private:
  std::vector<ScatterTask> tasks_;
};

}  // namespace muond
