#include "server/coordinator/election.h"

#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/coordinator/etcd_store.h"
#include "server/observe/log.h"

namespace muond {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLookEvery = std::chrono::milliseconds(150);  // who stands by
constexpr auto kMargin =
    std::chrono::milliseconds(100);  // a leader ends its answers that much early

class ElectionImpl final : public Election {
 public:
  explicit ElectionImpl(ElectionOptions options)
      : options_(std::move(options)),
        key_(options_.prefix + "leader"),
        ttl_(absl::ToChronoMilliseconds(options_.ttl)) {}
  ~ElectionImpl() override { Stop(); }

  void Begin() {
    thread_ = std::thread([this] { Run(); });
  }

  absl::StatusOr<std::shared_ptr<Coordinator>> Sit() override {
    absl::MutexLock lock(&mutex_);
    if (coordinator_ != nullptr && Clock::now() < sure_until_) return coordinator_;
    return absl::UnavailableError(absl::StrCat(
        "the coordinator at ", options_.endpoint, " stands by; ",
        leader_.empty()                ? std::string("nobody leads yet")
        : leader_ == options_.endpoint ? std::string("its lead is not sure now")
                                       : absl::StrCat("the one at ", leader_, " leads")));
  }
  std::string endpoint() const override { return options_.endpoint; }
  bool leads() override { return Sit().ok(); }
  std::string leader() override {
    absl::MutexLock lock(&mutex_);
    return leader_;
  }

  void Stop() override {
    {
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  enum class Role : uint8_t { kStandsBy, kTakesUp, kLeads };

  void Run() {
    for (;;) {
      auto wait = kLookEvery;
      if (role_ == Role::kStandsBy) {
        Look();
      } else if (Beat()) {
        if (role_ == Role::kTakesUp) TakeUp();
        wait =
            role_ == Role::kTakesUp ? std::chrono::milliseconds(10) : std::chrono::milliseconds(50);
      }
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopped_), absl::FromChrono(wait));
      if (stopped_) break;
    }
    StepDown("it ends");
  }

  // Stands by: who leads? Nobody: tries to.
  void Look() {
    const auto value = options_.etcd->Get(key_);
    if (!value.ok()) return Knows("", value.status());
    if (value->create_revision != 0) return Knows(value->value, absl::OkStatus());
    const Clock::time_point asked = Clock::now();
    const auto lease = options_.etcd->Grant(options_.ttl);
    if (!lease.ok()) return Knows("", lease.status());
    lease_ = *lease;
    const auto won =
        options_.etcd->Transact({key_, 0}, {{EtcdOp::Kind::kPut, key_, options_.endpoint, lease_}});
    if (!won.ok() || !won->done) {
      // Another was first, or nobody knows: with the lease goes what may have been written.
      options_.etcd->Revoke(lease_).IgnoreError();
      return;
    }
    role_ = Role::kTakesUp;
    renewed_ = asked;
    lost_ = std::make_shared<std::atomic<bool>>(false);
    Knows(options_.endpoint, absl::OkStatus());
    taking_up_ = std::async(
        std::launch::async,
        [this, revision = won->revision,
         lost = lost_]() -> absl::StatusOr<std::unique_ptr<Coordinator>> {
          auto store = OpenEtcdStore({options_.etcd, options_.prefix, {key_, revision}, lost});
          if (!store.ok()) return store.status();
          return options_.take_up(*std::move(store));
        });
  }

  // The store is being read; meanwhile the lease is kept.
  void TakeUp() {
    if (taking_up_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
    auto coordinator = taking_up_.get();
    if (!coordinator.ok()) return StepDown(coordinator.status().ToString());
    role_ = Role::kLeads;
    {
      absl::MutexLock lock(&mutex_);
      coordinator_ = *std::move(coordinator);
      sure_until_ = renewed_ + ttl_ - kMargin;
    }
    Log(Severity::kInfo, "coordinator.leads", {{"endpoint", options_.endpoint}});
  }

  // Renews the lease when it is time; false when the lead is over.
  bool Beat() {
    if (lost_->load()) return StepDown("a write failed"), false;
    const Clock::time_point asked = Clock::now();
    if (asked - renewed_ < ttl_ / 4) return true;
    const auto left = options_.etcd->KeepAlive(lease_);
    if (left.ok() && *left == absl::ZeroDuration()) return StepDown("its lease has ended"), false;
    if (left.ok()) {
      renewed_ = asked;
      absl::MutexLock lock(&mutex_);
      sure_until_ = renewed_ + ttl_ - kMargin;
      return true;
    }
    if (Clock::now() < renewed_ + ttl_) return true;  // asked again at once
    return StepDown(left.status().ToString()), false;
  }

  void StepDown(const std::string& why) {
    std::shared_ptr<Coordinator> coordinator;
    {
      absl::MutexLock lock(&mutex_);
      coordinator = std::move(coordinator_);
      coordinator_ = nullptr;
      if (leader_ == options_.endpoint) leader_.clear();
    }
    if (role_ == Role::kStandsBy) return;
    lost_->store(true);  // whoever still holds the coordinator writes nothing more
    if (taking_up_.valid()) taking_up_.wait();
    taking_up_ = {};
    options_.etcd->Revoke(lease_).IgnoreError();
    Log(Severity::kWarning, "coordinator.leads_no_more", {{"why", why}});
    role_ = Role::kStandsBy;
  }

  void Knows(const std::string& leader, const absl::Status& status) {
    if (status.ok() != std::exchange(in_touch_, status.ok())) {
      Log(status.ok() ? Severity::kInfo : Severity::kWarning,
          status.ok() ? "coordinator.store_back" : "coordinator.store_away", {{"error", status}});
    }
    absl::MutexLock lock(&mutex_);
    if (leader == leader_) return;
    leader_ = leader;
    if (!leader.empty() && leader != options_.endpoint)
      Log(Severity::kInfo, "coordinator.stands_by", {{"leader", leader}});
  }

  const ElectionOptions options_;
  const std::string key_;
  const std::chrono::milliseconds ttl_;
  // The thread's.
  Role role_ = Role::kStandsBy;
  int64_t lease_ = 0;
  Clock::time_point renewed_;  // before the beat that renewed the lease
  std::shared_ptr<std::atomic<bool>> lost_;
  std::future<absl::StatusOr<std::unique_ptr<Coordinator>>> taking_up_;
  bool in_touch_ = true;
  std::thread thread_;
  absl::Mutex mutex_;
  std::shared_ptr<Coordinator> coordinator_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point sure_until_ ABSL_GUARDED_BY(mutex_);
  std::string leader_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<Election> Election::Start(ElectionOptions options) {
  auto election = std::make_unique<ElectionImpl>(std::move(options));
  election->Begin();
  return election;
}

}  // namespace muond
