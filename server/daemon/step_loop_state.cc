// State, snapshot and status in the step loop: what is asked of a job between steps.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/daemon/snapshot.h"
#include "server/daemon/step_loop_impl.h"
#include "server/daemon/tensor_state.h"
#include "server/observe/fail_point.h"

namespace muond {

absl::StatusOr<Job*> StepLoopImpl::AttachedJob(uint64_t session_id) {
  Session* session = FindSession(session_id);
  if (session == nullptr) return absl::NotFoundError("no such session: join first");
  if (!session->job->has_slabs())
    return absl::FailedPreconditionError("the session has not attached yet");
  return session->job;
}

void StepLoopImpl::BetweenSteps(Job& job, absl::AnyInvocable<void()> work) {
  if (job.phase() == JobPhase::kRunning) {
    after_step_[job.id()].push_back(std::move(work));
  } else {
    work();
  }
}

void StepLoopImpl::ReadState(ReadStateCommand command, Done<StatePiece> done) {
  Command(std::move(done), [this, command](Done<StatePiece> answer) {
    auto job = AttachedJob(command.session);
    if (!job.ok()) return answer(job.status());
    BetweenSteps(**job, [this, command, answer = std::move(answer)]() mutable {
      // The job may have gone with its last step.
      auto found = AttachedJob(command.session);
      if (!found.ok()) return answer(found.status());
      TensorState state(**found, devices_);
      StatePiece piece;
      piece.step = (*found)->verdict_step();
      const auto total = state.SizeBytes(command.tensor, command.field);
      if (!total.ok()) return answer(total.status());
      piece.total_bytes = *total;
      auto data = state.Read(command.tensor, command.field, command.offset_bytes,
                             std::min(command.size_bytes_max, kStatePieceBytesMax));
      if (!data.ok()) return answer(data.status());
      piece.data = *std::move(data);
      answer(std::move(piece));
    });
  });
}

void StepLoopImpl::WriteState(WriteStateCommand command, Done<std::monostate> done) {
  Command(std::move(done), [this,
                            command = std::move(command)](Done<std::monostate> answer) mutable {
    auto job = AttachedJob(command.session);
    if (!job.ok()) return answer(job.status());
    BetweenSteps(**job, [this, command = std::move(command), answer = std::move(answer)]() mutable {
      auto found = AttachedJob(command.session);
      absl::Status status = found.status();
      if (status.ok()) {
        (*found)->SetLoading(true);
        status = TensorState(**found, devices_)
                     .Write(command.tensor, command.field, command.offset_bytes, command.data);
        FailPoint("after_write_state");
      }
      if (status.ok()) return answer(std::monostate());
      answer(status);
    });
  });
}

void StepLoopImpl::Snapshot(SnapshotCommand command, Done<SnapshotTaken> done) {
  Command(std::move(done),
          [this, command = std::move(command)](Done<SnapshotTaken> answer) mutable {
            Job* job = nullptr;
            if (command.session != 0) {
              auto attached = AttachedJob(command.session);
              if (!attached.ok()) return answer(attached.status());
              job = *attached;
            } else {
              job = FindJob(command.job);
              if (job == nullptr || !job->has_slabs())
                return answer(absl::NotFoundError(absl::StrFormat("no job '%s'", command.job)));
            }
            BetweenSteps(*job, [this, id = job->id(), command = std::move(command),
                                answer = std::move(answer)]() mutable {
              const auto found = jobs_.find(id);
              if (found == jobs_.end()) return answer(absl::NotFoundError("the job has ended"));
              if (!found->second->alone()) {
                return answer(absl::UnimplementedError(
                    "snapshots of a job of several daemons are not written yet"));
              }
              answer(WriteSnapshot(*found->second, devices_, command.directory));
            });
          });
}

void StepLoopImpl::Status(Done<StatusReport> done) {
  Command(std::move(done), [this](Done<StatusReport> answer) { answer(Report()); });
}

JobReport StepLoopImpl::ReportOf(const Job& job) const {
  JobReport report;
  report.job_id = job.id();
  report.name = job.name();
  report.incarnation = job.incarnation();
  report.epoch = job.epoch();
  report.step = job.finished_step();
  report.matrices = static_cast<int64_t>(job.layout().matrices);
  report.items = job.layout().page.items;
  report.parameters = job.layout().parameters;
  report.state_bytes = job.slabs().state_bytes();
  report.slab_bytes = job.slabs().total_bytes();
  report.state = job.phase() == JobPhase::kJoined     ? JobState::kJoining
                 : job.phase() == JobPhase::kOrphaned ? JobState::kOrphaned
                                                      : JobState::kRunning;
  report.void_step = job.void_step();
  report.void_text = job.last_void().text;
  for (uint32_t rank = 0; rank < job.ranks(); ++rank) {
    RankReport entry;
    entry.rank = static_cast<int32_t>(rank);
    const CatalogRank state = job.rank_state(rank);
    entry.state = state == CatalogRank::kJoined ? RankState::kJoined
                  : state == CatalogRank::kAttached || state == CatalogRank::kElsewhere
                      ? RankState::kAttached
                      : RankState::kGone;
    const auto session = sessions_.find(job.record().sessions[rank]);
    if (session != sessions_.end()) {
      entry.pid = session->second.pid;
      entry.heartbeat_age_seconds = absl::ToDoubleSeconds(absl::Now() - session->second.last_frame);
    }
    report.ranks.push_back(entry);
  }
  for (int phase = 0; phase < kPhases; ++phase) {
    const Metrics::PhaseSeconds& seconds = job.phase_seconds()[phase];
    if (seconds.count > 0)
      report.phases.push_back({Name(static_cast<Phase>(phase)), seconds.median, seconds.last});
  }
  return report;
}

StatusReport StepLoopImpl::Report() const {
  StatusReport report;
  report.daemon = options_.daemon;
  report.draining = is_draining_;
  for (size_t d = 0; d < devices_.size(); ++d) {
    const Device& device = *options_.backend->devices()[d];
    DeviceReport entry;
    entry.ordinal = device.info().ordinal;
    entry.uuid = device.info().uuid;
    entry.name = device.info().name;
    entry.architecture = device.info().architecture;
    entry.memory_bytes = device.info().memory_bytes;
    entry.memory_free_bytes = device.free_bytes();
    for (const auto& [id, job] : jobs_) {
      entry.owned_bytes += job->layout().state.device_bytes(static_cast<int>(d));
      for (const ScheduledItem& item : job->layout().device_items[d])
        entry.cost_seconds += item.cost_seconds;
      entry.items += static_cast<int64_t>(job->layout().device_items[d].size());
    }
    report.devices.push_back(std::move(entry));
  }
  for (const auto& [id, job] : jobs_) report.jobs.push_back(ReportOf(*job));
  for (const auto& [name, ranks] : board_.Waiting()) {
    JobReport waiting;
    waiting.name = name;
    waiting.state = JobState::kJoining;
    for (int32_t rank : ranks) waiting.ranks.push_back({rank, 0, RankState::kJoined, 0});
    report.jobs.push_back(std::move(waiting));
  }
  return report;
}

}  // namespace muond
