#include <nlohmann/json.hpp>

#include "client/ctl/offline_plan.h"

namespace muond {

std::string ToJson(const OfflinePlan& plan) {
  using Json = nlohmann::ordered_json;
  const Planned& planned = plan.planned;
  Json json;
  json["matrices"] = Json::array();
  std::vector<int64_t> held(planned.plan.devices.size(), 0);
  for (size_t r = 0; r < plan.list.size(); ++r) {
    const ModelRow& row = plan.list[r];
    for (size_t device = 0; device < plan.owned[r].size(); ++device) {
      const int64_t count = plan.owned[r][device];
      if (count == 0) continue;
      held[device] += count;
      json["matrices"].push_back({{"name", row.name},
                                  {"rows", row.rows},
                                  {"cols", row.cols},
                                  {"count", count},
                                  {"device", device},
                                  {"cost_seconds", plan.row_seconds[r]}});
    }
  }
  json["devices"] = Json::array();
  for (size_t device = 0; device < held.size(); ++device) {
    json["devices"].push_back({{"device", device},
                               {"cost_seconds", planned.plan.device_cost_seconds[device]},
                               {"matrices", held[device]}});
  }
  json["makespan_seconds"] = planned.makespan_seconds;
  json["mean_seconds"] = plan.mean_seconds;
  json["largest_seconds"] = plan.largest_seconds;
  json["lower_bound_seconds"] = planned.lower_bound_seconds;
  json["proven_bound_seconds"] = planned.proven_seconds;
  json["over_lower_bound"] = planned.makespan_seconds / planned.lower_bound_seconds;
  json["over_proven_bound"] = planned.makespan_seconds / planned.proven_seconds;
  json["imbalance"] = planned.plan.imbalance;
  json["splitting_needed_for_less"] =
      planned.makespan_seconds > 1.02 * planned.lower_bound_seconds &&
      planned.proven_seconds > 1.02 * planned.lower_bound_seconds;
  json["reason"] = planned.plan.reason;
  return json.dump(2) + "\n";
}

}  // namespace muond
