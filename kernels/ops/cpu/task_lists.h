// TaskLists: the copies of the lists that verbs are called with, from the call until the stream has run them, kept for reuse.
// Assigning to a list of an earlier call reuses what its tasks had allocated, so that equal calls, over and over, allocate
// nothing.
// Threads: Copy from any thread; a list by one at a time.   Lifetime: lists in flight keep the pool.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace muond::cpu {

template <typename Task>
class TaskLists {
 public:
  struct List {
    std::vector<Task> tasks;
    size_t count = 0;
    void (*function)(const Task&) = nullptr;
    std::shared_ptr<TaskLists> pool;  // while in flight

    void Run() const {
      for (size_t i = 0; i < count; ++i) function(tasks[i]);
    }
  };
  struct HandBack {
    void operator()(List* list) const {
      const std::shared_ptr<TaskLists> pool = std::move(list->pool);
      pool->Return(list);
    }
  };
  // Run or dropped, it goes back. The size of a pointer: a stream's host work holds it without an allocation.
  using Held = std::unique_ptr<List, HandBack>;

  static Held Copy(const std::shared_ptr<TaskLists>& pool, absl::Span<const Task> tasks,
                   void (*function)(const Task&)) {
    List* list = pool->Take();
    if (list->tasks.size() < tasks.size()) list->tasks.resize(tasks.size());
    std::copy(tasks.begin(), tasks.end(), list->tasks.begin());
    list->count = tasks.size();
    list->function = function;
    list->pool = pool;
    return Held(list);
  }

 private:
  List* Take() {
    absl::MutexLock lock(&mutex_);
    if (free_.empty()) {
      free_.reserve(lists_.size() + 1);
      return &lists_.emplace_back();
    }
    List* list = free_.back();
    free_.pop_back();
    return list;
  }
  void Return(List* list) {
    absl::MutexLock lock(&mutex_);
    free_.push_back(list);
  }

  absl::Mutex mutex_;
  std::deque<List> lists_ ABSL_GUARDED_BY(mutex_);
  std::vector<List*> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muond::cpu
