// StepLoopImpl: the StepLoop's parts, split over step_loop.cc (polling, frames, devices), step_loop_jobs.cc (join to end) and
// step_loop_state.cc (state, snapshot, status). Everything private runs on the loop's thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/runtime/spin_window.h"
#include "server/daemon/cell_watch.h"
#include "server/daemon/job.h"
#include "server/daemon/mailbox.h"
#include "server/daemon/step_loop.h"
#include "server/session/join_board.h"

namespace muond {

class StepLoopImpl final : public StepLoop {
 public:
  StepLoopImpl(StepLoopOptions options, std::unique_ptr<Mailbox> mailbox, UniqueFd epoll);
  ~StepLoopImpl() override;
  absl::Status Start();  // devices, and what the vault kept

  absl::Status Run() override;
  void Stop() override;

  void Join(JoinCommand command, Done<Joined> done) override;
  void CancelJoin(uint64_t ticket) override;
  void Attach(uint64_t session, Done<Attached> done) override;
  void Detach(uint64_t session, Done<std::monostate> done) override;
  void GetPlan(uint64_t job_id, uint64_t epoch, Done<std::shared_ptr<const Plan>> done) override;
  void ReadState(ReadStateCommand command, Done<StatePiece> done) override;
  void WriteState(WriteStateCommand command, Done<std::monostate> done) override;
  void Snapshot(SnapshotCommand command, Done<SnapshotTaken> done) override;
  void Drain(absl::Time deadline, Done<int32_t> done) override;
  void Status(Done<StatusReport> done) override;

 private:
  struct Session {
    Job* job = nullptr;
    uint32_t rank = 0;
    PeerId peer = kNoPeer;
    int32_t pid = 0;
    absl::Time last_frame;
  };
  struct Peer {
    uint64_t session = 0;  // since its HELLO
    int32_t pid = 0;
  };
  struct Draining {
    absl::Time deadline;
    Done<int32_t> done;
  };
  // A complete join whose plan has been asked for.
  struct Planning {
    CompleteJoin join;
    uint64_t adopted = 0;
    JobMembers members;  // empty: a job of this daemon alone
  };
  // Ranks that wait here for those of other daemons.
  struct Offering {
    uint64_t id = 0;
    size_t told = 0;  // how many ranks the coordinator knows of; 0: it is to be told all
    bool asked = false;
    absl::Time again;
  };

  // Posts `work`; when the loop has stopped, answers `done` UNAVAILABLE.
  template <typename T, typename Work>
  void Command(Done<T> done, Work work);

  // step_loop.cc
  absl::Status Watch(int descriptor);
  absl::Status Recover();
  void PollOnce(int timeout_ms);
  void PollShards();
  int TimeoutMs(absl::Time now) const;
  void OnCompletion(const Completion& completion);
  void OnCarrierEvent(const CarrierEvent& event);
  void OnFrame(PeerId peer, const Frame& frame);
  void Answer(PeerId peer, const Frame& frame, const GateDecision& decision, Job* job,
              uint32_t rank);
  void OnKeeperEvent(const KeeperEvent& event);
  // After anything that may have moved a job: sends what it has to say, starts groups, orphans and ends it where that is due.
  void Settle(Job& job);
  void Pump();
  void Tick(absl::Time now);

  // step_loop_jobs.cc
  void OnJoin(JoinCommand command, Done<Joined> done);
  // Whether this is a repeat that was answered before, or waits for its plan now; then it is taken care of.
  bool OnRepeatedJoin(const JoinCommand& command, Done<Joined>& done);
  static Joined AnswerOf(const Job& job, uint32_t rank);
  // Every rank of a job that cannot start, also those that ask for it later.
  void RefuseJob(const CompleteJoin& join, const absl::Status& status);
  void Refuse(const std::vector<JoinAnswer>& answers);
  void OnComplete(CompleteJoin join);
  // step_loop_offers.cc
  void OfferWaiting(absl::Time now);
  void OnOffered(const std::string& name, uint64_t offer, absl::StatusOr<OfferReply> reply);
  void StartOffered(const std::string& name, OfferReply reply);
  void AnswerJoins(const Planning& planning, const absl::StatusOr<Job*>& job);
  void OnPlanned(const std::string& name, absl::StatusOr<PlannedJob> planned);
  absl::StatusOr<Job*> StartJob(const Planning& planning, PlannedJob planned);
  absl::StatusOr<Attached> OnAttach(uint64_t session);
  absl::Status OnDetach(uint64_t session);
  void OrphanJob(Job& job);
  void RemoveJob(Job& job, const std::string& reason);
  absl::Status RecoverJob(uint64_t id, std::vector<KeptSlab>& slabs);
  absl::Status ResumeJob(Job& job);
  JobContext Context();
  void AddSessions(Job& job);
  Job* FindJob(const std::string& name);
  Session* FindSession(uint64_t session);
  void ForgetSessions(const Job& job);
  void CheckDrained();

  // step_loop_state.cc
  absl::StatusOr<Job*> AttachedJob(uint64_t session);
  // Runs `work` now, or when the job's running step is over.
  void BetweenSteps(Job& job, absl::AnyInvocable<void()> work);
  StatusReport Report() const;
  JobReport ReportOf(const Job& job) const;

  StepLoopOptions options_;
  std::unique_ptr<Mailbox> mailbox_;
  std::unique_ptr<CellWatch> watch_;  // posts to the mailbox
  UniqueFd epoll_;
  SpinWindow spin_;
  std::vector<DeviceRoom> devices_;
  std::unique_ptr<Scheduler> scheduler_;
  LinkTable links_;
  JoinBoard board_;
  std::map<std::string, Offering> offers_;                    // by job name
  std::unordered_map<uint64_t, Done<Joined>> waiting_joins_;  // by ticket
  std::map<std::string, Planning> planning_;                  // by job name
  std::map<uint64_t, std::unique_ptr<Job>> jobs_;
  std::map<uint64_t, absl::Time>
      lease_ends_;  // of orphaned jobs, and of jobs that are not whole yet
  std::map<uint64_t, std::vector<absl::AnyInvocable<void()>>> after_step_;
  absl::flat_hash_map<uint64_t, Session> sessions_;
  absl::flat_hash_map<PeerId, Peer> peers_;
  std::vector<Draining> draining_;
  bool is_draining_ = false;
  bool stopped_ = false;
  absl::Status failure_;
  // Reused by every poll.
  std::vector<CarrierEvent> events_;
  std::vector<uint64_t> peer_jobs_;
  std::vector<Completion> completions_;
  std::vector<absl::AnyInvocable<void()>> commands_;
  ScheduledGroup group_;
};

template <typename T, typename Work>
void StepLoopImpl::Command(Done<T> done, Work work) {
  // Shared, because a refused post destroys the command, and `done` must be called all the same.
  auto shared = std::make_shared<Done<T>>(std::move(done));
  const bool posted =
      mailbox_->Post([shared, work = std::move(work)]() mutable { work(std::move(*shared)); });
  if (!posted) (*shared)(absl::UnavailableError("the daemon is stopping"));
}

}  // namespace muond
