#include "kernels/runtime/host_pages.h"

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace muond {
namespace {

struct Listeners {
  absl::Mutex mutex;
  std::vector<HostUnmapListener> list ABSL_GUARDED_BY(mutex);
};

// Never destroyed: slabs may outlive any static.
Listeners& AllListeners() {
  static Listeners* const listeners = new Listeners;
  return *listeners;
}

}  // namespace

void AddHostUnmapListener(HostUnmapListener listener) {
  Listeners& all = AllListeners();
  absl::MutexLock lock(&all.mutex);
  if (std::find(all.list.begin(), all.list.end(), listener) == all.list.end()) {
    all.list.push_back(listener);
  }
}

void NotifyHostUnmap(void* data, size_t size_bytes) {
  Listeners& all = AllListeners();
  std::vector<HostUnmapListener> list;
  {
    absl::MutexLock lock(&all.mutex);
    list = all.list;
  }
  for (HostUnmapListener listener : list) listener(data, size_bytes);
}

}  // namespace muond
