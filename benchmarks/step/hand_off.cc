// The hand-off: what a step through a daemon costs beside the same arithmetic in this process and
// the copy of the gradients.
//   hand_off [--steps N]          (MUOND_BIN: the daemon)
//
// Steps of both kinds alternate, so that a busy machine disturbs both. hand-off = daemon - (in
// process + copy), medians of the same run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/step/engine.h"
#include "client/core/client.h"
#include "client/core/daemon_process.h"
#include "client/core/mapping.h"
#include "proto/stubs/daemon_stub.h"

namespace muond {
namespace {

using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * (values.size() - 1))];
}

struct Model {
  const char* name;
  Rule rule;
  std::vector<std::vector<int64_t>> shapes;
};

// 10 million parameters: one large table for AdamW; the matrices of 8 transformer layers of width
// 320 for Muon.
std::vector<Model> Models() {
  Model adamw{"adamw, 10.0 M, 4 tensors", Rule::kAdamW, {}};
  for (int i = 0; i < 4; ++i) adamw.shapes.push_back({2500, 1000});
  Model muon{"muon, 9.8 M, 32 matrices", Rule::kMuon, {}};
  for (int layer = 0; layer < 8; ++layer) {
    muon.shapes.push_back({960, 320});
    muon.shapes.push_back({320, 320});
    muon.shapes.push_back({1280, 320});
    muon.shapes.push_back({320, 1280});
  }
  return {adamw, muon};
}

// Bytes of everything that a parameter needs, on both sides. AdamW in one process: parameter,
// gradient, two averages.
absl::Status TellMemory(const std::string& endpoint, const std::string& job, int64_t elements) {
  auto stub = DaemonStub::Create(endpoint);
  if (!stub.ok()) return stub.status();
  absl::StatusOr<DaemonStatus> status = (*stub)->GetStatus();
  if (!status.ok()) return status.status();
  for (const JobStatus& entry : status->jobs) {
    if (entry.name != job) continue;
    const double count = static_cast<double>(elements);
    std::printf(
        "  memory, bytes a parameter: framework's gradient 4.00, daemon's slabs %.2f (state and "
        "arena %.2f): %.2f in all; AdamW in process 16.00\n",
        entry.slab_bytes / count, entry.state_bytes / count, 4 + entry.slab_bytes / count);
  }
  return absl::OkStatus();
}

absl::Status Measure(const Model& model, const std::string& endpoint, int steps) {
  Manifest manifest;
  manifest.job = absl::StrCat("hand-off-", model.rule == Rule::kMuon ? "muon" : "adamw");
  GroupSpec group;
  group.name = "all";
  group.rule = model.rule;
  group.steps = model.rule == Rule::kMuon ? 5 : 0;
  if (model.rule == Rule::kAdamW) group.table.clear();
  manifest.groups = {group};
  RankManifest rank;
  int64_t elements = 0;
  for (const std::vector<int64_t>& shape : model.shapes) {
    TensorSpec tensor;
    tensor.name = absl::StrCat("t", manifest.tensors.size());
    tensor.shape = shape;
    tensor.bucket = static_cast<int32_t>(elements / (1 << 20));
    manifest.buckets = tensor.bucket + 1;
    ShardSpec shard;
    shard.tensor = static_cast<int32_t>(manifest.tensors.size());
    shard.offset = {0, 0};
    shard.extent = shape;
    manifest.tensors.push_back(tensor);
    rank.shards.push_back(shard);
    elements += ElementsOf(tensor);
  }
  // Buckets without a tensor would be refused: number those that are there.
  int32_t last = -1, bucket = -1;
  for (TensorSpec& tensor : manifest.tensors) {
    if (tensor.bucket != last) ++bucket;
    last = tensor.bucket;
    tensor.bucket = bucket;
  }
  manifest.buckets = bucket + 1;

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  // Huge pages for the framework's side too, so that the two engines differ in nothing but where they run.
  std::vector<std::shared_ptr<Mapping>> own;
  for (int i = 0; i < 3; ++i) {
    auto mapped = Mapping::Private(elements * sizeof(float));
    if (!mapped.ok()) return mapped.status();
    own.push_back(*std::move(mapped));
  }
  const auto floats = [&own](int i) { return reinterpret_cast<float*>(own[i]->data()); };
  float *const gradients = floats(0), *const parameters = floats(1), *const copy = floats(2);
  std::generate_n(gradients, elements, [&] { return normal(random); });
  std::vector<Engine::Memory> memory;
  std::vector<int64_t> starts;
  for (int64_t at = 0; const TensorSpec& tensor : manifest.tensors) {
    memory.push_back({parameters + at, gradients + at});
    starts.push_back(at);
    at += ElementsOf(tensor);
  }
  auto engine = Engine::Create(manifest, memory);
  if (!engine.ok()) return engine.status();
  AttachOptions options;
  options.endpoint = endpoint;
  auto client = AttachToDaemon(options, manifest, rank);
  if (!client.ok()) return client.status();

  StepSettings settings;
  settings.groups = {{1e-3, 0, 0.95, 1e-8, 0.9, 0.999, 1}};
  std::vector<double> daemon_ms, inside_ms, copy_ms, over_ms;
  for (int step = 0; step < steps + 2; ++step) {
    auto start = Clock::now();
    for (size_t t = 0; t < memory.size(); ++t) {
      const absl::Status put =
          (*client)->Put(t, memory[t].gradient, (*client)->places()[t].size_bytes);
      if (!put.ok()) return put;
      // A bucket is announced when its last gradient is there, as the framework's client does it.
      const int32_t own = manifest.tensors[t].bucket;
      if (t + 1 < memory.size() && manifest.tensors[t + 1].bucket == own) continue;
      if (absl::Status said = (*client)->Announce(own); !said.ok()) return said;
    }
    if (auto committed = (*client)->Commit(settings); !committed.ok()) return committed.status();
    auto result = (*client)->Wait(absl::Minutes(5));
    if (!result.ok()) return result.status();
    if (!result->applied) return absl::InternalError(result->text);
    const double daemon = Milliseconds(start);
    start = Clock::now();
    if (absl::Status done = (*engine)->Step(); !done.ok()) return done;
    const double inside = Milliseconds(start);
    start = Clock::now();
    for (size_t t = 0; t < memory.size(); ++t) {
      std::memcpy(copy + starts[t], memory[t].gradient, (*client)->places()[t].size_bytes);
    }
    const double copied = Milliseconds(start);
    if (step < 2) continue;  // first touch of every page
    daemon_ms.push_back(daemon);
    inside_ms.push_back(inside);
    copy_ms.push_back(copied);
    over_ms.push_back(daemon - inside - copied);
  }
  // The protocol alone: every announcement, sheet, verdict and outcome, and no gradient.
  std::vector<double> empty_ms;
  for (int step = 0; step < 10 * steps; ++step) {
    const auto start = Clock::now();
    if (auto committed = (*client)->Commit(settings); !committed.ok()) return committed.status();
    if (auto result = (*client)->Wait(absl::Minutes(5)); !result.ok()) return result.status();
    empty_ms.push_back(Milliseconds(start));
  }
  std::printf("%-28s %9s %9s\n", model.name, "p50", "p99");
  for (const auto& [name, values] : {std::pair{"through the daemon, ms", &daemon_ms},
                                     {"in process, ms", &inside_ms},
                                     {"copy of the gradients, ms", &copy_ms},
                                     {"hand-off, ms", &over_ms},
                                     {"step without gradients, ms", &empty_ms}}) {
    std::printf("  %-26s %9.3f %9.3f\n", name, Quantile(*values, 0.5), Quantile(*values, 0.99));
  }
  if (absl::Status told = TellMemory(endpoint, manifest.job, elements); !told.ok()) return told;
  return (*client)->Detach();
}

int Main(int argc, char** argv) {
  const int steps = argc == 3 && std::string(argv[1]) == "--steps" ? std::atoi(argv[2]) : 30;
  DaemonOptions options;
  auto daemon = DaemonProcess::Start(options);
  absl::Status status = daemon.status();
  for (const Model& model : Models()) {
    if (status.ok()) status = Measure(model, (*daemon)->endpoint(), steps);
  }
  if (daemon.ok()) (*daemon)->Stop(absl::Seconds(10)).IgnoreError();
  if (!status.ok()) std::fprintf(stderr, "hand_off: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) { return muond::Main(argc, argv); }
