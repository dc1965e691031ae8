// Joining, mapping, placing: everything of DaemonClient before its first step.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/core/daemon_client.h"
#include "client/core/fork_guard.h"
#include "client/core/joining.h"
#include "proto/stubs/daemon_stub.h"

namespace muond {
namespace {

constexpr int kFetchTimeoutMs = 10'000;

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> AttachToDaemon(const AttachOptions& options,
                                                       const Manifest& manifest,
                                                       const RankManifest& rank) {
  return DaemonClient::Attach(options, manifest, rank);
}

DaemonClient::DaemonClient(const AttachOptions& options, const Manifest& manifest,
                           const RankManifest& rank)
    : options_(options),
      manifest_(manifest),
      rank_(rank),
      spin_(absl::ToChronoNanoseconds(options.spin)) {}

absl::StatusOr<std::unique_ptr<Client>> DaemonClient::Attach(const AttachOptions& options,
                                                             const Manifest& manifest,
                                                             const RankManifest& rank) {
  if (absl::Status valid = Validate(manifest); !valid.ok()) return valid;
  if (absl::Status valid = Validate(manifest, rank); !valid.ok()) return valid;
  std::unique_ptr<DaemonClient> client(new DaemonClient(options, manifest, rank));
  if (!rank.device_uuid.empty()) {
    absl::StatusOr<std::shared_ptr<ClientDevice>> device = OpenClientDevice(rank.device_uuid);
    if (!device.ok()) return device.status();
    client->device_ = *std::move(device);
  }
  absl::StatusOr<Joined> in = JoinDaemon(options, manifest, rank);
  if (!in.ok()) return in.status();
  const JoinReply* const joined = &in->reply;
  const AttachReply* const layout = &in->layout;

  client->info_.job = joined->job;
  client->info_.session = joined->session;
  client->info_.incarnation = joined->incarnation;
  client->info_.epoch = layout->epoch;
  client->info_.last_step = joined->last_step;
  client->info_.items = layout->items;
  client->info_.page_bytes = layout->page_bytes;
  client->first_step_ = joined->last_step + 1;

  absl::StatusOr<std::unique_ptr<SlabFetch>> keeper =
      SlabFetch::Open(layout->keeper_socket, joined->session, kFetchTimeoutMs);
  if (!keeper.ok()) return keeper.status();
  if (absl::Status guarded = GuardDescriptor((*keeper)->event_descriptor()); !guarded.ok()) {
    return guarded;
  }
  client->keeper_descriptor_ = (*keeper)->event_descriptor();
  if (absl::Status mapped = client->MapSlabs(keeper->get(), *layout); !mapped.ok()) return mapped;
  if (absl::Status placed = client->PlaceShards(*layout); !placed.ok()) return placed;
  client->book_ = std::make_unique<StepBook>(client->manifest_, client->rank_, client->places_);
  client->book_->Begin(client->first_step_);
  if (client->device_ != nullptr) {
    auto watch = JobWatch::Start(client->keeper_descriptor_, &client->page_->header().poison,
                                 &client->page_->step_over(client->own_rank()));
    if (!watch.ok()) return watch.status();
    client->watch_ = *std::move(watch);
  }

  Frame identity;
  identity.job = joined->job;
  identity.session = joined->session;
  identity.rank = static_cast<uint32_t>(rank.rank);
  identity.incarnation = joined->incarnation;
  identity.epoch = layout->epoch;
  client->line_ = std::make_unique<FrameLine>(layout->frame_socket, identity, *std::move(keeper),
                                              options.repair_timeout);
  for (LineEvent event = LineEvent::kNothing; event != LineEvent::kWelcome;) {
    absl::StatusOr<LineEvent> heard =
        client->line_->Wait(absl::Seconds(1), client->info_.last_step, &client->heard_);
    if (!heard.ok()) return heard.status();
    event = *heard;
  }
  return client;
}

DaemonClient::~DaemonClient() {
  if (watch_ != nullptr) {
    watch_.reset();
    // A stream that still waits is let go before the cell's page goes.
    if (stream_waits_ && ::getpid() == owner_pid_) {
      StoreCell(&page_->step_over(own_rank()), kPoison);
      device_->Synchronize();
    }
  }
  if (keeper_descriptor_ >= 0) UnguardDescriptor(keeper_descriptor_);
}

absl::StatusOr<std::shared_ptr<Mapping>> DaemonClient::MapSlab(int fd, uint64_t size_bytes,
                                                               bool on_device) {
  if (on_device && device_ != nullptr) return device_->Map(fd, size_bytes);
  return Mapping::Shared(fd, size_bytes);
}

absl::Status DaemonClient::MapSlabs(SlabFetch* keeper, const AttachReply& layout) {
  PageShape shape;
  shape.ranks = static_cast<uint32_t>(manifest_.world_size);
  shape.buckets = static_cast<uint32_t>(manifest_.buckets);
  shape.items = static_cast<uint32_t>(layout.items);
  shape.groups = static_cast<uint32_t>(manifest_.groups.size());
  shape.tensors = static_cast<uint32_t>(manifest_.tensors.size());
  shape.blocks_max = static_cast<uint32_t>(layout.page_blocks_max);
  absl::StatusOr<uint64_t> page_bytes = JobPage::SizeBytes(shape);
  if (!page_bytes.ok()) return page_bytes.status();
  if (*page_bytes != layout.page_bytes || shape.blocks_max < rank_.shards.size()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the daemon's job page has %d bytes for at most %d blocks a rank; this "
                        "rank counts %d bytes and %d blocks",
                        layout.page_bytes, shape.blocks_max, *page_bytes, rank_.shards.size()));
  }
  for (DescriptorMessage& slab : keeper->slabs()) {
    std::shared_ptr<Mapping>* mapping = nullptr;
    uint64_t size_bytes = 0;
    switch (slab.message.kind) {
      case SlabKind::kPage:
        mapping = &page_memory_;
        size_bytes = layout.page_bytes;
        break;
      case SlabKind::kGradient:
        mapping = &gradients_;
        size_bytes = layout.gradient_slab_bytes;
        break;
      case SlabKind::kParameter:
        mapping = &parameters_;
        size_bytes = layout.parameter_slab_bytes;
        break;
      default:
        continue;
    }
    if (*mapping != nullptr) {
      return absl::InternalError(absl::StrFormat("the keeper granted two slabs of kind %d",
                                                 static_cast<int>(slab.message.kind)));
    }
    absl::StatusOr<std::shared_ptr<Mapping>> mapped =
        MapSlab(slab.descriptor.get(), size_bytes, slab.message.kind != SlabKind::kPage);
    if (!mapped.ok()) return mapped.status();
    *mapping = *std::move(mapped);
    slab.descriptor.Reset();
  }
  if (page_memory_ == nullptr || gradients_ == nullptr || parameters_ == nullptr) {
    return absl::InternalError(absl::StrFormat(
        "the keeper granted %d slabs, and not all of page, gradients and parameters",
        keeper->slabs().size()));
  }
  page_ = std::make_unique<JobPage>(page_memory_->data(), shape);
  return absl::OkStatus();
}

absl::Status DaemonClient::PlaceShards(const AttachReply& layout) {
  places_.resize(rank_.shards.size());
  std::vector<bool> placed(rank_.shards.size(), false);
  for (const ShardPlace& place : layout.shards) {
    if (place.shard < 0 || static_cast<size_t>(place.shard) >= placed.size() ||
        placed[place.shard]) {
      return absl::InternalError(absl::StrFormat(
          "the daemon placed block %d of %d, or placed it twice", place.shard, placed.size()));
    }
    placed[place.shard] = true;
    const TensorSpec& tensor = manifest_.tensors[rank_.shards[place.shard].tensor];
    const uint64_t elements = ElementsOf(rank_.shards[place.shard]);
    ShardInSlab& own = places_[place.shard];
    own.size_bytes = elements * SizeOf(tensor.gradient_type);
    own.gradient_offset = place.gradient_offset;
    own.parameter_offset = place.parameter_offset;
    own.push_gradient = place.push_gradient;
    const uint64_t parameter_bytes = elements * SizeOf(tensor.parameter_type);
    const auto inside = [](uint64_t offset, uint64_t size_bytes, const Mapping& slab) {
      return offset <= slab.size_bytes() && size_bytes <= slab.size_bytes() - offset;
    };
    if ((own.push_gradient && !inside(own.gradient_offset, own.size_bytes, *gradients_)) ||
        !inside(own.parameter_offset, parameter_bytes, *parameters_)) {
      return absl::InternalError(
          absl::StrFormat("the daemon placed %s at bytes %d and %d of slabs of %d and %d bytes",
                          tensor.name, own.gradient_offset, own.parameter_offset,
                          gradients_->size_bytes(), parameters_->size_bytes()));
    }
  }
  if (std::find(placed.begin(), placed.end(), false) != placed.end()) {
    return absl::InternalError(
        absl::StrFormat("the daemon placed %d of %d blocks", layout.shards.size(), placed.size()));
  }
  return absl::OkStatus();
}

}  // namespace muond
