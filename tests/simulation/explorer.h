// Explorer: visits every state that a model can reach, breadth first, and returns the shortest way
// to an error. A Model has: a trivially copyable State without padding; Successors(state, emit),
// which calls emit(action, next) for each enabled action; Violation(state), empty when all is well;
// Done(state), true where no successor is owed; Name(action). States are compared byte by byte, so
// "exhaustive" is exact: no hash compaction. Threads: none.   Units: memory is about sizeof(State)
// + 16 bytes a state.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"

namespace muond::simulation {

struct Exploration {
  uint64_t states = 0;
  uint64_t transitions = 0;
  uint64_t final_states = 0;
  std::string error;               // empty: every reachable state is good
  std::vector<std::string> trace;  // the actions that lead to the error, first to last
};

template <typename Model>
class Explorer {
 public:
  using State = typename Model::State;
  static_assert(std::has_unique_object_representations_v<State>);

  explicit Explorer(const Model& model) : model_(model), table_(kFirstTable, kEmpty) {}

  Exploration Run(const State& initial) {
    Insert(initial, kEmpty, 0);
    for (uint32_t at = 0; at < states_.size(); ++at) {
      const State state = states_[at];  // a copy: Insert may move the vector
      std::string error = model_.Violation(state);
      if (!error.empty()) return Fail(at, std::move(error));
      uint64_t successors = 0;
      model_.Successors(state, [&](uint16_t action, const State& next) {
        ++successors;
        Insert(next, at, action);
      });
      result_.transitions += successors;
      if (model_.Done(state)) {
        ++result_.final_states;
      } else if (successors == 0) {
        return Fail(at, "deadlock: the run is not over and nothing can happen");
      }
    }
    result_.states = states_.size();
    return std::move(result_);
  }

 private:
  static constexpr uint32_t kEmpty = 0xffffffff;
  static constexpr size_t kFirstTable = size_t{1} << 16;
  struct Origin {
    uint32_t parent;
    uint16_t action;
  };

  static size_t Hash(const State& state) {
    return absl::HashOf(std::string_view(reinterpret_cast<const char*>(&state), sizeof(State)));
  }

  void Insert(const State& state, uint32_t parent, uint16_t action) {
    if (2 * (states_.size() + 1) > table_.size()) Grow();
    const size_t mask = table_.size() - 1;
    for (size_t i = Hash(state) & mask;; i = (i + 1) & mask) {
      if (table_[i] == kEmpty) {
        table_[i] = static_cast<uint32_t>(states_.size());
        states_.push_back(state);
        origins_.push_back({parent, action});
        return;
      }
      if (std::memcmp(&states_[table_[i]], &state, sizeof(State)) == 0) return;
    }
  }

  void Grow() {
    std::vector<uint32_t> table(2 * table_.size(), kEmpty);
    const size_t mask = table.size() - 1;
    for (uint32_t at = 0; at < states_.size(); ++at) {
      size_t i = Hash(states_[at]) & mask;
      while (table[i] != kEmpty) i = (i + 1) & mask;
      table[i] = at;
    }
    table_ = std::move(table);
  }

  Exploration Fail(uint32_t at, std::string error) {
    result_.states = states_.size();
    result_.error = std::move(error);
    for (; origins_[at].parent != kEmpty; at = origins_[at].parent) {
      result_.trace.push_back(model_.Name(origins_[at].action));
    }
    std::reverse(result_.trace.begin(), result_.trace.end());
    return std::move(result_);
  }

  const Model& model_;
  std::vector<State> states_;
  std::vector<Origin> origins_;
  std::vector<uint32_t> table_;
  Exploration result_;
};

}  // namespace muond::simulation
