// muond.h over client/core: every function checks its pointers and sizes, translates, and keeps the
// status of its thread.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "client/capi/muond.h"
#include "client/core/client.h"
#include "client/core/daemon_process.h"
#include "client/core/digest.h"
#include "client/core/fork_guard.h"
#include "proto/types/version.h"

struct muond_manifest {
  muond::Manifest manifest;
  muond::RankManifest rank;
};
struct muond_client {
  std::unique_ptr<muond::Client> client;
  int fork_generation = muond::ForkGeneration();
};
struct muond_slab {
  std::shared_ptr<muond::Mapping> mapping;
};
struct muond_daemon {
  std::unique_ptr<muond::DaemonProcess> process;
};

namespace {

using absl::InvalidArgumentError;
using absl::StrFormat;

thread_local std::string last_message;

muond_status Return(const absl::Status& status) {
  last_message = std::string(status.message());
  return static_cast<muond_status>(status.raw_code());
}

absl::Status NullError(const char* what) {
  return InvalidArgumentError(StrFormat("%s is NULL", what));
}

// A copy of the caller's struct, whatever version it was compiled against: what it does not have is
// zero, what we do not know is ignored.
template <typename T>
absl::StatusOr<T> Read(const T* given, const char* name) {
  T own = {};
  if (given == nullptr) return NullError(name);
  size_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  if (size < sizeof(size_t) || size > 4096) {
    return InvalidArgumentError(
        StrFormat("%s.struct_size is %d; set it to sizeof the struct", name, size));
  }
  std::memcpy(&own, given, std::min(size, sizeof(T)));
  return own;
}

// The other way: fills as much as the caller has room for.
template <typename T>
absl::Status Write(T own, T* given, const char* name) {
  absl::StatusOr<T> asked = Read(given, name);
  if (!asked.ok()) return asked.status();
  own.struct_size = asked->struct_size;
  std::memcpy(given, &own, std::min(own.struct_size, sizeof(T)));
  return absl::OkStatus();
}

std::string Text(const char* text) { return text == nullptr ? std::string() : text; }

absl::Duration Seconds(double seconds, double otherwise) {
  return absl::Seconds(seconds > 0 ? seconds : otherwise);
}

absl::Status Usable(const muond_client* client) {
  if (client == nullptr) return NullError("client");
  if (client->fork_generation == muond::ForkGeneration()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this process was forked from the one that attached: only that one may use the client");
}

absl::StatusOr<std::vector<int64_t>> Numbers(const int64_t* numbers, int32_t count,
                                             const char* name) {
  if (count < 0 || count > (1 << 20)) {
    return InvalidArgumentError(StrFormat("%s has %d entries", name, count));
  }
  if (count > 0 && numbers == nullptr) return NullError(name);
  return std::vector<int64_t>(numbers, numbers + count);
}

void SetIndex(int32_t* index, size_t count) {
  if (index != nullptr) *index = static_cast<int32_t>(count) - 1;
}

}  // namespace

extern "C" {

const char* muond_version(void) { return muond::kBuild.data(); }

void muond_abi_version(int32_t* major, int32_t* minor) {
  if (major != nullptr) *major = MUOND_ABI_MAJOR;
  if (minor != nullptr) *minor = MUOND_ABI_MINOR;
}

const char* muond_last_message(void) { return last_message.c_str(); }

const char* muond_status_name(muond_status status) {
  static const std::vector<std::string>* const names = [] {
    auto* made = new std::vector<std::string>;
    for (int code = 0; code <= MUOND_UNAUTHENTICATED; ++code) {
      made->push_back(absl::StatusCodeToString(static_cast<absl::StatusCode>(code)));
    }
    return made;
  }();
  const int code = static_cast<int>(status);
  return code >= 0 && code <= MUOND_UNAUTHENTICATED ? (*names)[code].c_str() : "?";
}

muond_status muond_daemon_start(const muond_daemon_options* given, muond_daemon** daemon) {
  if (daemon == nullptr) return Return(NullError("daemon"));
  *daemon = nullptr;
  absl::StatusOr<muond_daemon_options> options = Read(given, "muond_daemon_options");
  if (!options.ok()) return Return(options.status());
  muond::DaemonOptions wanted;
  wanted.program = Text(options->program);
  wanted.log_path = Text(options->log_path);
  wanted.timeout = Seconds(options->timeout_seconds, 30);
  for (const char* const* a = options->arguments; a != nullptr && *a != nullptr; ++a) {
    wanted.arguments.push_back(*a);
  }
  if (options->progress != nullptr) {
    wanted.progress = [&options](absl::Duration waited, const std::string& text) {
      options->progress(options->progress_context, absl::ToDoubleSeconds(waited), text.c_str());
    };
  }
  absl::StatusOr<std::unique_ptr<muond::DaemonProcess>> started =
      muond::DaemonProcess::Start(wanted);
  if (!started.ok()) return Return(started.status());
  *daemon = new muond_daemon{*std::move(started)};
  return Return(absl::OkStatus());
}

const char* muond_daemon_endpoint(const muond_daemon* daemon) {
  return daemon == nullptr ? "" : daemon->process->endpoint().c_str();
}

int32_t muond_daemon_pid(const muond_daemon* daemon) {
  return daemon == nullptr ? -1 : daemon->process->pid();
}

muond_status muond_daemon_wait(muond_daemon* daemon, double timeout_seconds) {
  if (daemon == nullptr) return Return(NullError("daemon"));
  if (daemon->process->WaitUntilIdle(absl::Seconds(std::max(timeout_seconds, 0.0)))) {
    return Return(absl::OkStatus());
  }
  return Return(absl::DeadlineExceededError(StrFormat("muond (pid %d) still has a job after %.1f s",
                                                      daemon->process->pid(), timeout_seconds)));
}

muond_status muond_daemon_stop(muond_daemon* daemon, double timeout_seconds) {
  if (daemon == nullptr) return Return(NullError("daemon"));
  const absl::Status stopped = daemon->process->Stop(Seconds(timeout_seconds, 10));
  delete daemon;
  return Return(stopped);
}

muond_status muond_manifest_create(const muond_manifest_options* given, muond_manifest** manifest) {
  if (manifest == nullptr) return Return(NullError("manifest"));
  *manifest = nullptr;
  absl::StatusOr<muond_manifest_options> options = Read(given, "muond_manifest_options");
  if (!options.ok()) return Return(options.status());
  auto made = std::make_unique<muond_manifest>();
  made->manifest.job = Text(options->job);
  made->manifest.world_size = options->world_size;
  made->manifest.buckets = options->buckets;
  made->rank.rank = options->rank;
  made->rank.device_uuid = Text(options->device_uuid);
  *manifest = made.release();
  return Return(absl::OkStatus());
}

muond_status muond_manifest_add_group(muond_manifest* manifest, const muond_group* given,
                                      int32_t* index) {
  if (manifest == nullptr) return Return(NullError("manifest"));
  absl::StatusOr<muond_group> group = Read(given, "muond_group");
  if (!group.ok()) return Return(group.status());
  if (group->custom_step_count < 0 || group->custom_step_count > 1024) {
    return Return(InvalidArgumentError(
        StrFormat("muond_group.custom_step_count is %d", group->custom_step_count)));
  }
  if (group->custom_step_count > 0 && group->custom_steps == nullptr) {
    return Return(NullError("muond_group.custom_steps"));
  }
  muond::GroupSpec spec;
  spec.name = Text(group->name);
  spec.rule = static_cast<muond::Rule>(group->rule);
  if (spec.rule == muond::Rule::kAdamW) spec.table.clear();
  if (group->table != nullptr) spec.table = group->table;
  for (int32_t i = 0; i < group->custom_step_count; ++i) {
    const muond_coefficients& row = group->custom_steps[i];
    spec.custom_steps.push_back({row.a, row.b, row.c});
  }
  spec.steps = group->steps;
  if (group->update_scale != 0) {
    spec.update_scale = static_cast<muond::UpdateScale>(group->update_scale);
  }
  manifest->manifest.groups.push_back(std::move(spec));
  SetIndex(index, manifest->manifest.groups.size());
  return Return(absl::OkStatus());
}

muond_status muond_manifest_add_tensor(muond_manifest* manifest, const muond_tensor* given,
                                       int32_t* index) {
  if (manifest == nullptr) return Return(NullError("manifest"));
  absl::StatusOr<muond_tensor> tensor = Read(given, "muond_tensor");
  if (!tensor.ok()) return Return(tensor.status());
  auto shape = Numbers(tensor->shape, tensor->dims, "muond_tensor.shape");
  if (!shape.ok()) return Return(shape.status());
  auto heights =
      Numbers(tensor->matrix_rows, tensor->matrix_rows_count, "muond_tensor.matrix_rows");
  if (!heights.ok()) return Return(heights.status());
  muond::TensorSpec spec;
  spec.name = Text(tensor->name);
  spec.shape = *std::move(shape);
  spec.matrix_rows = *std::move(heights);
  if (tensor->row_dims != 0) spec.row_dims = tensor->row_dims;
  if (tensor->parameter_type != 0) {
    spec.parameter_type = static_cast<muond::DType>(tensor->parameter_type);
  }
  if (tensor->gradient_type != 0) {
    spec.gradient_type = static_cast<muond::DType>(tensor->gradient_type);
  }
  spec.group = tensor->group;
  spec.bucket = tensor->bucket;
  manifest->manifest.tensors.push_back(std::move(spec));
  SetIndex(index, manifest->manifest.tensors.size());
  return Return(absl::OkStatus());
}

muond_status muond_manifest_add_block(muond_manifest* manifest, const muond_block* given,
                                      int32_t* index) {
  if (manifest == nullptr) return Return(NullError("manifest"));
  absl::StatusOr<muond_block> block = Read(given, "muond_block");
  if (!block.ok()) return Return(block.status());
  const auto& tensors = manifest->manifest.tensors;
  if (block->tensor < 0 || static_cast<size_t>(block->tensor) >= tensors.size()) {
    return Return(InvalidArgumentError(StrFormat("muond_block.tensor is %d; %d tensors were added",
                                                 block->tensor, tensors.size())));
  }
  muond::ShardSpec spec;
  spec.tensor = block->tensor;
  if (block->offset == nullptr) {
    spec.extent = tensors[block->tensor].shape;
    spec.offset.assign(spec.extent.size(), 0);
  } else {
    auto offset = Numbers(block->offset, block->dims, "muond_block.offset");
    auto extent = Numbers(block->extent, block->dims, "muond_block.extent");
    if (!offset.ok()) return Return(offset.status());
    if (!extent.ok()) return Return(extent.status());
    spec.offset = *std::move(offset);
    spec.extent = *std::move(extent);
  }
  if (block->replica_kind != 0) {
    spec.replica_kind = static_cast<muond::ReplicaKind>(block->replica_kind);
  }
  spec.replica = block->replica;
  if (block->replicas != 0) spec.replicas = block->replicas;
  if (block->divisor != 0) spec.divisor = block->divisor;
  manifest->rank.shards.push_back(std::move(spec));
  SetIndex(index, manifest->rank.shards.size());
  return Return(absl::OkStatus());
}

void muond_manifest_destroy(muond_manifest* manifest) { delete manifest; }

muond_status muond_client_attach(const muond_attach_options* given, const muond_manifest* manifest,
                                 muond_client** client) {
  if (client == nullptr) return Return(NullError("client"));
  *client = nullptr;
  if (manifest == nullptr) return Return(NullError("manifest"));
  absl::StatusOr<muond_attach_options> options = Read(given, "muond_attach_options");
  if (!options.ok()) return Return(options.status());
  absl::StatusOr<std::unique_ptr<muond::Client>> made;
  if (options->echo != 0) {
    made = muond::CreateEcho(manifest->manifest, manifest->rank);
  } else {
    muond::AttachOptions wanted;
    wanted.endpoint = Text(options->endpoint);
    wanted.token = Text(options->token);
    wanted.adopt = options->adopt != 0;
    wanted.attempt = options->attempt;
    wanted.join_timeout = Seconds(options->join_timeout_seconds, 300);
    wanted.repair_timeout = Seconds(options->repair_timeout_seconds, 60);
    made = muond::AttachToDaemon(wanted, manifest->manifest, manifest->rank);
  }
  if (!made.ok()) return Return(made.status());
  *client = new muond_client{*std::move(made)};
  return Return(absl::OkStatus());
}

muond_status muond_client_get_info(const muond_client* client, muond_client_info* info) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  const muond::ClientInfo& from = client->client->info();
  muond_client_info own = {};
  own.job_id = from.job;
  own.session = from.session;
  own.epoch = from.epoch;
  own.last_step = from.last_step;
  own.incarnation = from.incarnation;
  own.blocks = static_cast<int32_t>(client->client->places().size());
  own.buckets = client->client->manifest().buckets;
  own.items = from.items;
  own.reconnects = from.reconnects;
  own.gradient_bytes = client->client->gradient_slab()->size_bytes();
  own.parameter_bytes = client->client->parameter_slab()->size_bytes();
  own.page_bytes = from.page_bytes;
  return Return(Write(own, info, "muond_client_info"));
}

muond_status muond_client_get_block(const muond_client* client, int32_t block,
                                    muond_block_place* place) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  const std::vector<muond::ShardInSlab>& places = client->client->places();
  if (block < 0 || static_cast<size_t>(block) >= places.size()) {
    return Return(InvalidArgumentError(
        StrFormat("block %d was asked for; this rank has %d", block, places.size())));
  }
  muond_block_place own = {};
  own.size = places[block].size_bytes;
  own.gradient_offset = places[block].gradient_offset;
  own.parameter_offset = places[block].parameter_offset;
  own.push_gradient = places[block].push_gradient ? 1 : 0;
  return Return(Write(own, place, "muond_block_place"));
}

muond_status muond_client_get_slab(const muond_client* client, muond_slab_kind kind,
                                   muond_slab** slab) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (slab == nullptr) return Return(NullError("slab"));
  *slab = nullptr;
  if (kind != MUOND_SLAB_GRADIENT && kind != MUOND_SLAB_PARAMETER) {
    return Return(InvalidArgumentError(StrFormat("there is no slab kind %d for a rank", kind)));
  }
  *slab = new muond_slab{kind == MUOND_SLAB_GRADIENT ? client->client->gradient_slab()
                                                     : client->client->parameter_slab()};
  return Return(absl::OkStatus());
}

void* muond_slab_data(const muond_slab* slab) {
  return slab == nullptr ? nullptr : slab->mapping->data();
}

uint64_t muond_slab_size(const muond_slab* slab) {
  return slab == nullptr ? 0 : slab->mapping->size_bytes();
}

void muond_slab_release(muond_slab* slab) { delete slab; }

muond_status muond_client_put(muond_client* client, int32_t block, const void* data,
                              uint64_t size) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (data == nullptr && size > 0) return Return(NullError("data"));
  return Return(client->client->Put(block, data, size));
}

muond_status muond_client_placed(muond_client* client, const int32_t* blocks, int32_t count) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (count < 0 || (blocks == nullptr && count > 0)) return Return(NullError("blocks"));
  return Return(client->client->Placed({blocks, static_cast<size_t>(count)}));
}

muond_status muond_client_use_stream(muond_client* client, void* stream) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  return Return(client->client->UseStream(reinterpret_cast<uintptr_t>(stream)));
}

muond_status muond_client_wait_on_stream(muond_client* client) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  return Return(client->client->WaitOnStream());
}

muond_status muond_client_announce(muond_client* client, int32_t bucket) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  return Return(client->client->Announce(bucket));
}

muond_status muond_client_commit(muond_client* client, const muond_step* given, uint64_t* step) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  absl::StatusOr<muond_step> options = Read(given, "muond_step");
  if (!options.ok()) return Return(options.status());
  if (options->group_count < 0 || (options->group_count > 0 && options->groups == nullptr)) {
    return Return(
        InvalidArgumentError(StrFormat("muond_step has %d groups at NULL", options->group_count)));
  }
  muond::StepSettings settings;
  for (int32_t g = 0; g < options->group_count; ++g) {
    const muond_scalars& s = options->groups[g];
    settings.groups.push_back({s.lr, s.weight_decay, s.momentum, s.eps, s.beta1, s.beta2,
                               static_cast<uint64_t>(s.nesterov != 0)});
  }
  if (options->loss_scale != 0) settings.loss_scale = options->loss_scale;
  settings.clip_norm = options->clip_norm;
  settings.found_inf = options->found_inf != 0;
  absl::StatusOr<uint64_t> committed = client->client->Commit(settings);
  if (!committed.ok()) return Return(committed.status());
  if (step != nullptr) *step = *committed;
  return Return(absl::OkStatus());
}

muond_status muond_client_wait(muond_client* client, double timeout_seconds,
                               muond_outcome* outcome) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (absl::StatusOr<muond_outcome> asked = Read(outcome, "muond_outcome"); !asked.ok()) {
    return Return(asked.status());
  }
  absl::StatusOr<muond::StepResult> result = client->client->Wait(
      timeout_seconds > 0 ? absl::Seconds(timeout_seconds) : absl::InfiniteDuration());
  if (!result.ok()) return Return(result.status());
  muond_outcome own = {};
  own.step = result->step;
  own.kind = result->applied ? MUOND_APPLIED : MUOND_VOID;
  own.reason = static_cast<muond_void_reason>(result->reason);
  own.tensor = result->tensor;
  const absl::Status written = Write(own, outcome, "muond_outcome");
  const muond_status status = Return(written);
  if (written.ok()) last_message = result->text;
  return status;
}

muond_status muond_client_fetch_state(muond_client* client, int32_t tensor, muond_state_field field,
                                      void* data, uint64_t size) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (data == nullptr) return Return(NullError("data"));
  return Return(
      client->client->FetchState(tensor, static_cast<muond::StateField>(field), data, size));
}

muond_status muond_client_keep_connection(muond_client* client, int32_t keep) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  client->client->KeepConnection(keep != 0);
  return Return(absl::OkStatus());
}

muond_status muond_client_push_state(muond_client* client, int32_t tensor, muond_state_field field,
                                     const void* data, uint64_t size) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (data == nullptr) return Return(NullError("data"));
  return Return(
      client->client->PushState(tensor, static_cast<muond::StateField>(field), data, size));
}

muond_status muond_client_fetch_block_state(muond_client* client, int32_t block,
                                            muond_state_field field, void* data, uint64_t size) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (data == nullptr && size > 0) return Return(NullError("data"));
  return Return(
      client->client->FetchShardState(block, static_cast<muond::StateField>(field), data, size));
}

muond_status muond_client_push_block_state(muond_client* client, int32_t block,
                                           muond_state_field field, const void* data,
                                           uint64_t size) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  if (data == nullptr && size > 0) return Return(NullError("data"));
  return Return(
      client->client->PushShardState(block, static_cast<muond::StateField>(field), data, size));
}

muond_status muond_client_detach(muond_client* client) {
  if (absl::Status usable = Usable(client); !usable.ok()) return Return(usable);
  return Return(client->client->Detach());
}

void muond_client_destroy(muond_client* client) { delete client; }

uint64_t muond_digest64(const void* data, uint64_t size) {
  return data == nullptr ? muond::Digest("", 0) : muond::Digest(data, size);
}

}  // extern "C"
