#include "server/scatter/scatterer.h"

#include <algorithm>
#include <utility>

namespace muond {

void CopyOut::Finish() {
  tasks.assign(shapes.size(), {});
  for (size_t run = 0; run < shapes.size(); ++run) {
    tasks[run].source = shapes[run];
    for (const Holder& holder : holders) {
      tasks[run].destinations.insert(tasks[run].destinations.end(), holder.runs[run].begin(),
                                     holder.runs[run].end());
    }
  }
}

void Scatterer::Run(Ops& ops, Stream& stream, absl::Span<CopyOut* const> items) {
  size_t tasks = 0;
  for (CopyOut* item : items) tasks += item->tasks.size();
  tasks_.resize(std::max(tasks_.size(), tasks));
  size_t at = 0;
  for (CopyOut* item : items) {
    for (ScatterTask& task : item->tasks) std::swap(tasks_[at++], task);
  }
  ops.Scatter(stream, absl::MakeConstSpan(tasks_).first(tasks));
  at = 0;
  for (CopyOut* item : items) {
    for (ScatterTask& task : item->tasks) std::swap(tasks_[at++], task);
  }
}

void Scatterer::RunHolder(Ops& ops, Stream& stream, const CopyOut& item, const Holder& holder) {
  std::vector<ScatterTask> tasks(item.tasks.size());
  for (size_t run = 0; run < tasks.size(); ++run) {
    tasks[run].source = item.tasks[run].source;
    tasks[run].destinations = holder.runs[run];
  }
  ops.Scatter(stream, tasks);
}

}  // namespace muond
