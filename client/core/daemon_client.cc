#include "client/core/daemon_client.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/core/digest.h"

namespace muond {
namespace {

// An open step without an answer is said again after so long, then after twice as long, up to
// kRepeatMax: another rank may be slow.
constexpr absl::Duration kRepeatAfter = absl::Seconds(1);
constexpr absl::Duration kRepeatMax = absl::Seconds(30);
// How long a VOID step's frame, which tells the reason, may come after its cell.
constexpr absl::Duration kReasonTimeout = absl::Milliseconds(500);
constexpr absl::Duration kTakenTimeout = absl::Minutes(1);
constexpr uint32_t kAttempt = 0;  // gradients are put once: what was announced is not changed

}  // namespace

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
    if (device_ == nullptr) digest = Digest(data, size_bytes);
  } else {
    if (absl::Status taken = WaitUntilTaken(manifest_.tensors[spec.tensor].bucket); !taken.ok()) {
      return taken;
    }
    char* to = gradients_->data() + place.gradient_offset;
    if (data == to) {  // written in place
      if (compared && device_ == nullptr) digest = Digest(data, size_bytes);
    } else if (device_ != nullptr) {
      if (absl::Status copied = device_->Copy(stream_, to, data, size_bytes); !copied.ok()) {
        return copied;
      }
    } else if (compared) {
      digest = CopyAndDigest(to, data, size_bytes);
    } else if (size_bytes > 0) {
      std::memcpy(to, data, size_bytes);
    }
  }
  book_->DidPut(shard, digest);
  return absl::OkStatus();
}

absl::Status DaemonClient::Placed(absl::Span<const int32_t> shards) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  for (int32_t shard : shards) {
    const uint64_t size_bytes =
        shard >= 0 && static_cast<size_t>(shard) < places_.size() ? places_[shard].size_bytes : 0;
    if (absl::Status may = book_->MayPut(shard, size_bytes); !may.ok()) return may;
  }
  for (int32_t shard : shards) {
    const ShardSpec& spec = rank_.shards[shard];
    const bool compared = spec.replica_kind == ReplicaKind::kSame && spec.replicas > 1;
    if (compared && device_ == nullptr) {
      return absl::FailedPreconditionError(
          "replicas in host memory are compared by what Put reads: put their gradients");
    }
    book_->DidPut(shard, 0);
  }
  return absl::OkStatus();
}

absl::Status DaemonClient::UseStream(StreamHandle stream) {
  if (device_ == nullptr) {
    return absl::FailedPreconditionError("this rank's memory is the host's: it has no stream");
  }
  stream_ = stream;
  return absl::OkStatus();
}

absl::Status DaemonClient::WaitOnStream() {
  if (device_ == nullptr) {
    return absl::FailedPreconditionError("this rank's memory is the host's: it has no stream");
  }
  if (absl::Status may = book_->MayWait(); !may.ok()) return may;
  stream_waits_ = true;
  return device_->WaitCell(stream_, &page_->step_over(own_rank()), book_->step() << 8);
}

absl::Status DaemonClient::AnnounceNow(int32_t bucket) {
  Cell& cell = page_->gradient_ready(own_rank(), bucket);
  const uint64_t value = book_->step() << 16 | kAttempt;
  if (device_ != nullptr) {
    if (absl::Status wrote = device_->WriteCell(stream_, &cell, value); !wrote.ok()) return wrote;
  } else {
    cell.store(value, std::memory_order_release);
  }
  SayReady(bucket);
  return absl::OkStatus();
}

void DaemonClient::SayReady(int32_t bucket) {
  Frame ready = line_->Make(FrameType::kReady, book_->step());
  ready.bucket = static_cast<uint32_t>(bucket);
  ready.attempt = kAttempt;
  line_->Send(ready);
}

absl::Status DaemonClient::Announce(int32_t bucket) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (absl::Status may = book_->MayAnnounce(bucket); !may.ok()) return may;
  if (book_->announced(bucket)) return absl::OkStatus();
  if (absl::Status announced = AnnounceNow(bucket); !announced.ok()) return announced;
  book_->DidAnnounce(bucket);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> DaemonClient::Commit(const StepSettings& settings) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (absl::Status may = book_->MayCommit(settings); !may.ok()) return may;
  // A rank on a GPU finds its steps over without listening: what was said is read here, and a lost stepper looked for.
  if (device_ != nullptr) {
    if (absl::Status heard = Listen(absl::ZeroDuration()); !heard.ok()) return heard;
  }
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
    if (book_->announced(bucket)) SayReady(bucket);
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
      // Said of something older than what the daemon knows by now, or before it has caught up: the
      // cells decide, and the repeat asks again.
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
    // A loss scaler's own Inf is no surprise to it, and may come at every step for a while.
    if (result.reason != VoidReason::kFoundInf) {
      const std::string why = AskWhyVoid(result.step);
      if (!why.empty()) result.text += "; the daemon says: " + why;
    }
    const bool names_tensor = result.reason == VoidReason::kNonFinite ||
                              result.reason == VoidReason::kReplicasDiffer ||
                              result.reason == VoidReason::kNotWhole;
    if (names_tensor && void_frame_.bucket < manifest_.tensors.size()) {
      result.tensor = static_cast<int32_t>(void_frame_.bucket);
    }
  }
  info_.last_step = result.step;
  stream_waits_ = false;
  book_->Begin(result.step + 1);
  return result;
}

uint64_t DaemonClient::StepOver() const {
  if (watch_ != nullptr) return watch_->Outcome();
  return page_->step_over(own_rank()).load(std::memory_order_acquire);
}

bool DaemonClient::IsOver() const {
  const uint64_t over = StepOver();
  return over >> 8 >= book_->step() && over < kPoison;
}

absl::StatusOr<StepResult> DaemonClient::Wait(absl::Duration timeout) {
  if (absl::Status may = book_->MayWait(); !may.ok()) return may;
  const absl::Time end = absl::Now() + timeout;
  absl::Time reason_until = absl::InfiniteFuture();
  for (;;) {
    // The outcome first: a step that was over before the daemon went is over.
    const uint64_t over = StepOver();
    const bool is_over = over >> 8 >= book_->step() && over < kPoison;
    if (is_over && (over & 0xff) == static_cast<uint64_t>(StepOutcome::kApplied)) {
      // What came meanwhile is taken off the line: a rank whose steps are always over when it looks would never read it.
      Listen(absl::ZeroDuration()).IgnoreError();
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
    const auto listen = [&] {
      Listen(std::max(nap, absl::ZeroDuration()))
          .IgnoreError();  // kept in dead_, told after the cell was seen
    };
    if (is_over) {
      listen();
    } else {
      spin_.Wait([this] { return IsOver(); }, listen);
    }
  }
}

}  // namespace muond
