// Model lists for tests: the projections of real models, as (name, rows, cols, count).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/types/manifest.h"
#include "proto/types/plan.h"
#include "tests/support/manifests.h"

namespace muond::testing {

struct ListRow {
  const char* name;
  int64_t rows, cols;
  int count;
};
struct ModelList {
  const char* model;
  std::vector<ListRow> rows;
};

inline const std::vector<ModelList>& ModelLists() {
  static const std::vector<ModelList> lists = {{"llama-3.1-8b",
                                                {{"qo", 4096, 4096, 64},
                                                 {"kv", 1024, 4096, 64},
                                                 {"gate_up", 14336, 4096, 64},
                                                 {"down", 4096, 14336, 32}}},
                                               {"qwen2.5-1.5b",
                                                {{"qo", 1536, 1536, 56},
                                                 {"kv", 256, 1536, 56},
                                                 {"gate_up", 8960, 1536, 56},
                                                 {"down", 1536, 8960, 28}}},
                                               {"qwen2.5-14b",
                                                {{"qo", 5120, 5120, 96},
                                                 {"kv", 1024, 5120, 96},
                                                 {"gate_up", 13824, 5120, 96},
                                                 {"down", 5120, 13824, 48}}},
                                               {"qwen3-30b-a3b",
                                                {{"gate_up", 768, 2048, 12288},
                                                 {"down", 2048, 768, 6144},
                                                 {"q", 4096, 2048, 48},
                                                 {"kv", 512, 2048, 96},
                                                 {"o", 2048, 4096, 48}}},
                                               {"pi0",
                                                {{"lm_qo", 2048, 2048, 36},
                                                 {"lm_kv", 256, 2048, 36},
                                                 {"lm_gate_up", 16384, 2048, 36},
                                                 {"lm_down", 2048, 16384, 18},
                                                 {"act_q", 2048, 1024, 18},
                                                 {"act_kv", 256, 1024, 36},
                                                 {"act_o", 1024, 2048, 18},
                                                 {"act_gate_up", 4096, 1024, 36},
                                                 {"act_down", 1024, 4096, 18},
                                                 {"vis_attention", 1152, 1152, 108},
                                                 {"vis_fc1", 4304, 1152, 27},
                                                 {"vis_fc2", 1152, 4304, 27}}}};
  return lists;
}

inline Manifest ManifestOf(const ModelList& list) {
  Manifest manifest = EmptyManifest(1, list.model);
  for (const ListRow& row : list.rows) {
    for (int i = 0; i < row.count; ++i) {
      manifest.tensors.push_back(
          Tensor(std::string(row.name) + "." + std::to_string(i), {row.rows, row.cols}));
    }
  }
  return manifest;
}

inline std::vector<DeviceSpec> GpuDevices(int count, uint64_t memory_bytes = 0) {
  std::vector<DeviceSpec> devices;
  for (int d = 0; d < count; ++d) {
    DeviceSpec device;
    device.daemon = "daemon-" + std::to_string(d / 8);
    device.ordinal = d % 8;
    device.uuid = "GPU-" + std::to_string(d);
    device.architecture = "sm_90a";
    device.memory_bytes = device.memory_free_bytes = memory_bytes;
    devices.push_back(device);
  }
  return devices;
}

}  // namespace muond::testing
