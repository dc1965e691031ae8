#include "client/core/daemon_client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/core/digest.h"
#include "client/core/fork_guard.h"
#include "proto/stubs/daemon_stub.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

constexpr int kFetchTimeoutMs = 10'000;
// An open step without an answer is said again after so long, then after twice as long, up to kRepeatMax: another rank may be slow.
constexpr absl::Duration kRepeatAfter = absl::Seconds(1);
constexpr absl::Duration kRepeatMax = absl::Seconds(30);
// How long a VOID step's frame, which tells the reason, may come after its cell.
constexpr absl::Duration kReasonTimeout = absl::Milliseconds(500);
constexpr absl::Duration kTakenTimeout = absl::Minutes(1);
constexpr uint32_t kAttempt = 0;  // gradients are put once: what was announced is not changed

absl::StatusOr<std::unique_ptr<DaemonStub>> Connect(const AttachOptions& options) {
  StubOptions stub_options;
  stub_options.wait_for_ready = true;  // a stepper that restarts
  stub_options.timeout = options.repair_timeout;
  return DaemonStub::Create(options.endpoint, stub_options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> AttachToDaemon(const AttachOptions& options,
                                                       const Manifest& manifest,
                                                       const RankManifest& rank) {
  return DaemonClient::Attach(options, manifest, rank);
}

DaemonClient::DaemonClient(const AttachOptions& options, const Manifest& manifest,
                           const RankManifest& rank)
    : options_(options), manifest_(manifest), rank_(rank) {}

absl::StatusOr<std::unique_ptr<Client>> DaemonClient::Attach(const AttachOptions& options,
                                                             const Manifest& manifest,
                                                             const RankManifest& rank) {
  if (absl::Status valid = Validate(manifest); !valid.ok()) return valid;
  if (absl::Status valid = Validate(manifest, rank); !valid.ok()) return valid;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = DaemonStub::Create(options.endpoint);
  if (!stub.ok()) return stub.status();

  JoinCall join;
  join.manifest = manifest;
  join.rank = rank;
  join.resume = options.adopt ? Resume::kAdopt : Resume::kFresh;
  join.token = options.token;
  absl::StatusOr<JoinReply> joined = (*stub)->Join(join, options.join_timeout);
  if (!joined.ok()) return joined.status();
  absl::StatusOr<AttachReply> layout = (*stub)->Attach(joined->session, options.join_timeout);
  if (!layout.ok()) return layout.status();
  stub->reset();

  std::unique_ptr<DaemonClient> client(new DaemonClient(options, manifest, rank));
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
  if (keeper_descriptor_ >= 0) UnguardDescriptor(keeper_descriptor_);
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
        Mapping::Shared(slab.descriptor.get(), size_bytes);
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

absl::Status DaemonClient::Alive() {
  if (dead_.ok() && detached_) {
    dead_ = absl::FailedPreconditionError("this rank has left its job");
  }
  if (dead_.ok() && page_->header().poison.load(std::memory_order_acquire) != 0) {
    dead_ = absl::UnavailableError(
        "the daemon has given this job up (a rank was lost, or it was expelled): no further step "
        "is possible");
  }
  return dead_;
}

absl::Status DaemonClient::WaitUntilTaken(int32_t bucket) {
  const uint64_t step = book_->step();
  if (step <= first_step_) return absl::OkStatus();
  const Cell& taken = page_->taken(own_rank(), bucket);
  const absl::Time end = absl::Now() + kTakenTimeout;
  while (taken.load(std::memory_order_acquire) < step - 1) {
    if (absl::Now() > end) {
      return absl::DeadlineExceededError(absl::StrFormat(
          "gradients of bucket %d are still being read %.0f s after step %d was over", bucket,
          absl::ToDoubleSeconds(kTakenTimeout), step - 1));
    }
    if (absl::Status heard = Listen(absl::Milliseconds(1)); !heard.ok()) return heard;
  }
  return absl::OkStatus();
}

absl::Status DaemonClient::Put(int32_t shard, const void* data, uint64_t size_bytes) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (absl::Status may = book_->MayPut(shard, size_bytes); !may.ok()) return may;
  const ShardSpec& spec = rank_.shards[shard];
  const ShardInSlab& place = places_[shard];
  const bool compared = spec.replica_kind == ReplicaKind::kSame && spec.replicas > 1;
  uint64_t digest = 0;
  if (!place.push_gradient) {
    digest = Digest(data, size_bytes);
  } else {
    if (absl::Status taken = WaitUntilTaken(manifest_.tensors[spec.tensor].bucket); !taken.ok()) {
      return taken;
    }
    char* to = gradients_->data() + place.gradient_offset;
    if (compared) {
      digest = CopyAndDigest(to, data, size_bytes);
    } else if (size_bytes > 0) {
      std::memcpy(to, data, size_bytes);
    }
  }
  book_->DidPut(shard, digest);
  return absl::OkStatus();
}

void DaemonClient::AnnounceNow(int32_t bucket) {
  page_->gradient_ready(own_rank(), bucket)
      .store(book_->step() << 16 | kAttempt, std::memory_order_release);
  Frame ready = line_->Make(FrameType::kReady, book_->step());
  ready.bucket = static_cast<uint32_t>(bucket);
  ready.attempt = kAttempt;
  line_->Send(ready);
}

absl::Status DaemonClient::Announce(int32_t bucket) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (absl::Status may = book_->MayAnnounce(bucket); !may.ok()) return may;
  if (book_->announced(bucket)) return absl::OkStatus();
  book_->DidAnnounce(bucket);
  AnnounceNow(bucket);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> DaemonClient::Commit(const StepSettings& settings) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (absl::Status may = book_->MayCommit(settings); !may.ok()) return may;
  for (int32_t bucket = 0; bucket < manifest_.buckets; ++bucket) {
    if (absl::Status announced = Announce(bucket); !announced.ok()) return announced;
  }
  const uint64_t step = book_->step();
  const uint32_t rank = own_rank();
  SheetHeader& sheet = page_->sheet(rank, step);
  sheet.step = step;
  sheet.epoch = info_.epoch;
  sheet.incarnation = info_.incarnation;
  sheet.found_inf = settings.found_inf ? 1 : 0;
  sheet.loss_scale = settings.loss_scale;
  sheet.clip_norm = settings.clip_norm;
  std::copy(settings.groups.begin(), settings.groups.end(), page_->groups(rank, step));
  std::copy(book_->present().begin(), book_->present().end(), page_->present(rank, step));
  std::fill_n(page_->attempts(rank, step), manifest_.buckets, kAttempt);
  std::copy(book_->digests().begin(), book_->digests().end(), page_->digests(rank, step));
  sheet.commit.store(step, std::memory_order_release);
  book_->DidCommit();
  void_frame_ = Frame();
  repeat_after_ = kRepeatAfter;
  next_repeat_ = absl::Now() + repeat_after_;
  line_->Send(line_->Make(FrameType::kStep, step));
  return step;
}

void DaemonClient::SayAgain() {
  for (int32_t bucket = 0; bucket < manifest_.buckets; ++bucket) {
    if (book_->announced(bucket)) AnnounceNow(bucket);
  }
  if (book_->committed()) line_->Send(line_->Make(FrameType::kStep, book_->step()));
}

absl::Status DaemonClient::Listen(absl::Duration timeout) {
  absl::StatusOr<LineEvent> event = line_->Wait(timeout, info_.last_step, &heard_);
  info_.reconnects = line_->losses();
  if (!event.ok()) return dead_ = event.status();
  if (*event == LineEvent::kWelcome) SayAgain();
  for (const Frame& frame : heard_) {
    if (absl::Status heard = Hear(frame); !heard.ok()) return dead_ = heard;
  }
  if (book_->committed() && absl::Now() >= next_repeat_) {
    SayAgain();
    repeat_after_ = std::min(repeat_after_ * 2, kRepeatMax);
    next_repeat_ = absl::Now() + repeat_after_;
  }
  return absl::OkStatus();
}

absl::Status DaemonClient::Hear(const Frame& frame) {
  if (frame.type == FrameType::kVoid && frame.step == book_->step()) void_frame_ = frame;
  if (frame.type != FrameType::kRefused) return absl::OkStatus();
  switch (static_cast<RefusedReason>(frame.value)) {
    case RefusedReason::kDraining:
      return absl::UnavailableError("the daemon drains and takes no further step of this job");
    case RefusedReason::kStaleEpoch:
      return absl::FailedPreconditionError(absl::StrFormat(
          "the daemon plans under epoch %d, this rank steps under %d", frame.epoch, info_.epoch));
    case RefusedReason::kStaleIncarnation:
      return absl::FailedPreconditionError(absl::StrFormat(
          "the job was joined anew; this rank is of incarnation %d", info_.incarnation));
    case RefusedReason::kUnknownSession:
      return absl::UnavailableError("the daemon does not know this rank's session any more");
    case RefusedReason::kBadBucket:
      return absl::InternalError(
          absl::StrFormat("the daemon refused bucket %d of %d", frame.bucket, manifest_.buckets));
    case RefusedReason::kStepGap:
      // Said of something older than what the daemon knows by now, or before it has caught up: the cells decide, and the repeat asks again.
      if (frame.step >= book_->step()) return absl::OkStatus();
      return absl::FailedPreconditionError(
          absl::StrFormat("the daemon expects step %d of this job, this rank makes step %d",
                          frame.step, book_->step()));
  }
  return absl::OkStatus();
}

StepResult DaemonClient::Over(bool applied) {
  StepResult result;
  result.step = book_->step();
  result.applied = applied;
  if (!applied) {
    result.reason = static_cast<VoidReason>(void_frame_.value);
    result.text = VoidText(manifest_, result.step, result.reason, void_frame_.bucket);
    const bool names_tensor = result.reason == VoidReason::kNonFinite ||
                              result.reason == VoidReason::kReplicasDiffer ||
                              result.reason == VoidReason::kNotWhole;
    if (names_tensor && void_frame_.bucket < manifest_.tensors.size()) {
      result.tensor = static_cast<int32_t>(void_frame_.bucket);
    }
  }
  info_.last_step = result.step;
  book_->Begin(result.step + 1);
  return result;
}

absl::StatusOr<StepResult> DaemonClient::Wait(absl::Duration timeout) {
  if (absl::Status may = book_->MayWait(); !may.ok()) return may;
  const absl::Time end = absl::Now() + timeout;
  absl::Time reason_until = absl::InfiniteFuture();
  for (;;) {
    // The outcome first: a step that was over before the daemon went is over.
    const uint64_t over = page_->step_over(own_rank()).load(std::memory_order_acquire);
    const bool is_over = over >> 8 >= book_->step() && over < kPoison;
    if (is_over && (over & 0xff) == static_cast<uint64_t>(StepOutcome::kApplied)) {
      return Over(true);
    }
    const absl::Time now = absl::Now();
    if (is_over) {
      if (void_frame_.step == book_->step() || now >= reason_until) return Over(false);
      if (reason_until == absl::InfiniteFuture()) reason_until = now + kReasonTimeout;
    }
    if (absl::Status alive = Alive(); !alive.ok()) {
      if (is_over) return Over(false);
      return alive;
    }
    if (now >= end && !is_over) {
      return absl::DeadlineExceededError(absl::StrFormat(
          "step %d is not over after %.1f s", book_->step(), absl::ToDoubleSeconds(timeout)));
    }
    const absl::Duration nap = std::min({end - now, reason_until - now, next_repeat_ - now});
    Listen(std::max(nap, absl::ZeroDuration()))
        .IgnoreError();  // kept in dead_, told after the cell was seen
  }
}

absl::Status DaemonClient::CheckState(int32_t tensor, StateField field, uint64_t size_bytes) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (book_->committed()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "state was asked for while step %d is not over: wait for it first", book_->step()));
  }
  absl::StatusOr<uint64_t> wanted = StateBytes(manifest_, tensor, field);
  if (!wanted.ok()) return wanted.status();
  if (*wanted == size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("state field %d of %s has %d bytes, %d were given", static_cast<int>(field),
                      manifest_.tensors[tensor].name, *wanted, size_bytes));
}

absl::Status DaemonClient::FetchState(int32_t tensor, StateField field, void* data,
                                      uint64_t size_bytes) {
  if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = Connect(options_);
  if (!stub.ok()) return stub.status();
  FetchStateCall call;
  call.session = info_.session;
  call.tensors = {tensor};
  call.fields = {field};
  uint64_t got_bytes = 0;
  const absl::Status fetched = (*stub)->FetchState(
      call,
      [&](const StateChunk& chunk) -> absl::Status {
        if (chunk.tensor != tensor || chunk.field != field || chunk.offset_bytes != got_bytes ||
            chunk.data.size() > size_bytes - got_bytes) {
          return absl::InternalError(absl::StrFormat(
              "the daemon sent %d bytes at %d of tensor %d, field %d; byte %d of %d of tensor %d, "
              "field %d is next",
              chunk.data.size(), chunk.offset_bytes, chunk.tensor, static_cast<int>(chunk.field),
              got_bytes, size_bytes, tensor, static_cast<int>(field)));
        }
        std::memcpy(static_cast<char*>(data) + got_bytes, chunk.data.data(), chunk.data.size());
        got_bytes += chunk.data.size();
        return absl::OkStatus();
      },
      options_.repair_timeout);
  if (!fetched.ok()) return fetched;
  if (got_bytes == size_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("the daemon sent %d of the %d bytes of state field %d of %s", got_bytes,
                      size_bytes, static_cast<int>(field), manifest_.tensors[tensor].name));
}

absl::Status DaemonClient::PushState(int32_t tensor, StateField field, const void* data,
                                     uint64_t size_bytes) {
  if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = Connect(options_);
  if (!stub.ok()) return stub.status();
  uint64_t sent_bytes = 0;
  absl::StatusOr<uint64_t> taken = (*stub)->PushState(
      [&](StateChunk* chunk) {
        if (sent_bytes == size_bytes) return false;
        const uint64_t piece_bytes =
            std::min<uint64_t>(size_bytes - sent_bytes, kStateChunkBytesMax);
        chunk->session = info_.session;
        chunk->tensor = tensor;
        chunk->field = field;
        chunk->offset_bytes = sent_bytes;
        chunk->data.assign(static_cast<const char*>(data) + sent_bytes, piece_bytes);
        sent_bytes += piece_bytes;
        return true;
      },
      options_.repair_timeout);
  if (!taken.ok()) return taken.status();
  if (*taken == size_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("the daemon took %d of the %d bytes of state field %d of %s", *taken,
                      size_bytes, static_cast<int>(field), manifest_.tensors[tensor].name));
}

absl::Status DaemonClient::Detach() {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = Connect(options_);
  if (!stub.ok()) return stub.status();
  line_->Send(line_->Make(FrameType::kBye, info_.last_step));
  const absl::Status left = (*stub)->Detach(info_.session, options_.repair_timeout);
  detached_ = true;
  return left;
}

}  // namespace muond
