#include "server/keeper/keeper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/carrier/ipc/descriptor_channel.h"
#include "proto/carrier/ipc/unix_socket.h"
#include "server/keeper/keeper_table.h"
#include "server/keeper/restart_policy.h"
#include "server/keeper/runtime_directory.h"
#include "server/keeper/stepper_process.h"
#include "server/observe/log.h"

namespace muond {
namespace {

// What an epoll event belongs to; rank connections count up from kFirstRank.
constexpr uint64_t kSignals = 1, kDoor = 2, kStepper = 3, kLifeline = 4, kFirstRank = 100;
constexpr size_t kRankConnectionsMax = 2048;
constexpr absl::Duration kFetchWithin =
    absl::Seconds(10);  // a connection that does not ask by then is closed
constexpr absl::Duration kRetryFullSocket = absl::Milliseconds(5);
constexpr absl::Duration kGraceToEnd =
    absl::Seconds(5);  // a stepper that closed its channel is ending
constexpr absl::Duration kGraceAfterDrain =
    absl::Seconds(5);  // the stepper times its drain itself; then we do
constexpr absl::Duration kGraceToFinish =
    absl::Seconds(2);  // for a stepper whose lifeline has ended: its answers take milliseconds

struct Outgoing {
  KeeperMessage message;
  uint64_t slab = 0;  // whose descriptor goes along; 0: none
};

struct Connection {
  DescriptorChannel channel;
  std::deque<Outgoing> outgoing;
  uint64_t session = 0;  // 0: has not asked yet
  absl::Time ask_by = absl::InfiniteFuture();
};

enum class Phase { kRunning, kDraining, kFinishing, kEnding };

class Keeper {
 public:
  explicit Keeper(const KeeperOptions& options) : options_(options) {}

  int Run() {
    if (auto status = SetUp(); !status.ok()) {
      Log(Severity::kError, "keeper.cannot_start", {{"error", status}});
      return kExitCannotStart;
    }
    StartStepper();
    while (phase_ != Phase::kEnding) Turn();
    stepper_.reset();  // killed if need be, and reaped, before the sockets go
    Log(Severity::kInfo, "keeper.ended", {{"exit_code", exit_code_}});
    return exit_code_;
  }

 private:
  absl::Status SetUp() {
    // Every kept slab is a descriptor here.
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
      limit.rlim_cur = limit.rlim_max;
      ::setrlimit(RLIMIT_NOFILE, &limit);
    }
    for (const int fd : {options_.lifeline_fd, options_.ready_fd}) {
      // The stepper must not hold them open.
      if (fd >= 0 && ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
        return ErrnoToStatus(errno, absl::StrCat("descriptor ", fd, " was not inherited"));
      }
    }
    lifeline_.Reset(options_.lifeline_fd);
    ready_.Reset(options_.ready_fd);
    ::signal(SIGPIPE, SIG_IGN);

    sigset_t mask;
    ::sigemptyset(&mask);
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) ::sigaddset(&mask, signal);
    if (::sigprocmask(SIG_BLOCK, &mask, nullptr) != 0) return ErrnoToStatus(errno, "sigprocmask");
    signals_.Reset(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) return ErrnoToStatus(errno, "signalfd");
    epoll_.Reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_.valid()) return ErrnoToStatus(errno, "epoll_create1");

    auto directory = RuntimeDirectory::Create(options_.socket_dir, options_.remove_directory);
    if (!directory.ok()) return directory.status();
    directory_ = *std::move(directory);
    if (auto status = SetNonBlocking(directory_->keeper_socket()); !status.ok()) return status;
    if (auto status = Watch(signals_.get(), kSignals, EPOLLIN); !status.ok()) return status;
    if (auto status = Watch(directory_->keeper_socket(), kDoor, EPOLLIN); !status.ok())
      return status;
    if (lifeline_.valid()) {
      if (auto status = SetNonBlocking(lifeline_.get()); !status.ok()) return status;
      if (auto status = Watch(lifeline_.get(), kLifeline, EPOLLIN | EPOLLRDHUP); !status.ok())
        return status;
    }
    Log(Severity::kInfo, "keeper.started",
        {{"pid", ::getpid()}, {"socket_dir", directory_->path()}});
    return absl::OkStatus();
  }

  absl::Status Watch(int fd, uint64_t what, uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = what;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
      return ErrnoToStatus(errno, "epoll_ctl(ADD)");
    return absl::OkStatus();
  }

  // One wait, and what came of it.
  void Turn() {
    std::array<epoll_event, 64> ready;
    const int n = ::epoll_wait(epoll_.get(), ready.data(), ready.size(), WaitMs());
    for (int i = 0; i < n && phase_ != Phase::kEnding; ++i) {
      const uint64_t what = ready[i].data.u64;
      if (what == kSignals)
        OnSignals();
      else if (what == kDoor)
        OnDoor();
      else if (what == kStepper)
        OnStepper();
      else if (what == kLifeline)
        OnLifeline();
      else
        OnRank(what, ready[i].events);
    }
    if (phase_ != Phase::kEnding) OnTime();
  }

  // ---- time

  int WaitMs() const {
    absl::Time next = std::min({restart_at_, end_by_, kill_at_});
    if (stepper_ != nullptr && !to_stepper_.empty())
      next = std::min(next, absl::Now() + kRetryFullSocket);
    for (const auto& [id, connection] : ranks_) {
      next = std::min(next, connection.ask_by);
      if (!connection.outgoing.empty()) next = std::min(next, absl::Now() + kRetryFullSocket);
    }
    if (next == absl::InfiniteFuture()) return -1;
    const int64_t ms =
        absl::ToInt64Milliseconds(absl::Ceil(next - absl::Now(), absl::Milliseconds(1)));
    return static_cast<int>(std::clamp<int64_t>(ms, 0, 60'000));
  }

  void OnTime() {
    const absl::Time now = absl::Now();
    if (now >= end_by_ && phase_ == Phase::kFinishing) {
      Log(Severity::kWarning, "keeper.stepper_does_not_finish", {{"slabs", table_.slabs()}});
      return End(kExitOk);
    }
    if (now >= end_by_) {
      Log(Severity::kWarning, "keeper.drain_timed_out",
          {{"slabs", table_.slabs()}, {"bytes", table_.total_bytes()}});
      return End(kExitJobsCut);
    }
    if (now >= kill_at_) {
      kill_at_ = absl::InfiniteFuture();
      if (stepper_ != nullptr) stepper_->Kill();
    }
    if (now >= restart_at_) {
      restart_at_ = absl::InfiniteFuture();
      StartStepper();
    }
    FlushToStepper();
    std::vector<uint64_t> late;
    for (auto& [id, connection] : ranks_) {
      if (now >= connection.ask_by)
        late.push_back(id);
      else if (!FlushToRank(&connection))
        late.push_back(id);
    }
    for (const uint64_t id : late) CloseRank(id);
  }

  // ---- signals and ends

  void OnSignals() {
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo == SIGCHLD) {
        ReapStepper();
      } else {
        OnTerminate(static_cast<int>(info.ssi_signo));
      }
      if (phase_ == Phase::kEnding) return;
    }
  }

  void OnTerminate(int signal) {
    if (phase_ == Phase::kFinishing) return End(kExitOk);
    if (phase_ == Phase::kDraining) {
      Log(Severity::kWarning, "keeper.drain_cut_short", {{"signal", signal}});
      return End(table_.slabs() > 0 ? kExitJobsCut : kExitOk);
    }
    phase_ = Phase::kDraining;
    end_by_ = absl::Now() + options_.drain_timeout + kGraceAfterDrain;
    Log(Severity::kInfo, "keeper.draining",
        {{"signal", signal}, {"timeout_s", absl::ToDoubleSeconds(options_.drain_timeout)}});
    if (stepper_ == nullptr && table_.slabs() == 0) return End(kExitOk);
    // One that does not serve yet has no job to end; it is told when it serves.
    if (served_) Tell(KeeperVerb::kDrain);
  }

  void Tell(KeeperVerb verb) {
    KeeperMessage message;
    message.verb = verb;
    to_stepper_.push_back({message, 0});
    FlushToStepper();
  }

  void OnLifeline() {
    std::array<char, 64> bytes;
    ssize_t n;
    while ((n = ::read(lifeline_.get(), bytes.data(), bytes.size())) > 0) {
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    Log(Severity::kInfo, "keeper.lifeline_ended", {{"slabs", table_.slabs()}});
    lifeline_.Reset();
    if (!served_) return End(kExitOk);
    // Whoever has asked gets the answer, not a broken connection.
    phase_ = Phase::kFinishing;
    end_by_ = absl::Now() + kGraceToFinish;
    Tell(KeeperVerb::kFinish);
  }

  void End(int code) {
    phase_ = Phase::kEnding;
    exit_code_ = code;
  }

  // ---- the stepper

  void StartStepper() {
    ++starts_;
    served_ = false;
    auto pair = SeqpacketPair();
    if (!pair.ok()) return OnStepperGone({}, pair.status().ToString());
    std::vector<std::string> arguments = options_.stepper_arguments;
    arguments.push_back(absl::StrCat("--stepper-starts=", starts_));
    auto process = StepperProcess::Start(options_.executable, arguments, pair->second.get(),
                                         directory_->frame_socket());
    if (!process.ok()) return OnStepperGone({}, process.status().ToString());
    stepper_ = *std::move(process);
    channel_ = std::make_unique<DescriptorChannel>(std::move(pair->first));
    if (auto status = Watch(channel_->socket(), kStepper, EPOLLIN); !status.ok()) {
      Log(Severity::kError, "keeper.cannot_watch_stepper", {{"error", status}});
      return End(kExitCannotStart);
    }
    to_stepper_.clear();
    for (const uint64_t slab : table_.SlabsInOrder()) {
      to_stepper_.push_back({ToMessage(KeeperVerb::kSlab, *table_.Find(slab)), slab});
    }
    KeeperMessage end;
    end.verb = KeeperVerb::kEnd;
    to_stepper_.push_back({end, 0});
    for (const uint64_t session : table_.GoneSessions()) PushRankGone(session);
    Log(Severity::kInfo, "stepper.started",
        {{"pid", stepper_->pid()},
         {"starts", starts_},
         {"slabs", table_.slabs()},
         {"bytes", table_.total_bytes()}});
    FlushToStepper();
  }

  void PushRankGone(uint64_t session) {
    KeeperMessage message;
    message.verb = KeeperVerb::kRankGone;
    message.session = session;
    to_stepper_.push_back({message, 0});
  }

  void FlushToStepper() {
    if (channel_ == nullptr) return;
    while (!to_stepper_.empty()) {
      const Outgoing& next = to_stepper_.front();
      const auto descriptor = next.slab == 0 ? descriptors_.end() : descriptors_.find(next.slab);
      const auto sent = channel_->TrySend(
          next.message, descriptor == descriptors_.end() ? -1 : descriptor->second.get());
      if (!sent.ok()) return to_stepper_.clear();  // its end is told by SIGCHLD
      if (!*sent) return;
      to_stepper_.pop_front();
    }
  }

  // Reads what the stepper has sent. Called before any rank is answered and before a successor is
  // started.
  void OnStepper() {
    while (channel_ != nullptr) {
      auto received = channel_->TryReceive();
      if (!received.ok()) {
        if (received.status().code() != absl::StatusCode::kUnavailable)
          Violation(received.status());
        else
          CloseChannel();
        return;
      }
      if (!received->has_value()) return;
      if (auto status = Obey(**std::move(received)); !status.ok()) return Violation(status);
    }
  }

  // A stepper that breaks the protocol is as good as dead.
  void Violation(const absl::Status& status) {
    Log(Severity::kError, "stepper.protocol_violation", {{"error", status}});
    CloseChannel();
    if (stepper_ != nullptr) stepper_->Kill();
  }

  // Its end is closed: it is ending, or has lost its mind, since without the channel it can keep
  // nothing.
  void CloseChannel() {
    channel_.reset();
    to_stepper_.clear();
    kill_at_ = absl::Now() + kGraceToEnd;
  }

  absl::Status Obey(DescriptorMessage received) {
    const KeeperMessage& message = received.message;
    switch (message.verb) {
      case KeeperVerb::kKeep:
        if (auto status = table_.Keep(ToSlabInfo(message)); !status.ok()) return status;
        descriptors_[message.slab] = std::move(received.descriptor);
        return absl::OkStatus();
      case KeeperVerb::kDrop:
        if (auto status = table_.Drop(message.slab); !status.ok()) return status;
        descriptors_.erase(message.slab);
        return absl::OkStatus();
      case KeeperVerb::kGrant:
        return table_.Grant(message.session, message.slab);
      case KeeperVerb::kRevoke:
        if (table_.Revoke(message.session)) CloseSession(message.session);
        return absl::OkStatus();
      case KeeperVerb::kReady:
        OnReady();
        return absl::OkStatus();
      case KeeperVerb::kStop:
        stopping_ = true;
        return absl::OkStatus();
      default:
        return absl::InvalidArgumentError(
            absl::StrCat("a stepper does not send ", std::string(NameOf(message.verb))));
    }
  }

  void OnReady() {
    served_ = ever_served_ = true;
    Log(Severity::kInfo, "stepper.serving",
        {{"pid", stepper_->pid()},
         {"after_ms", absl::ToInt64Milliseconds(absl::Now() - stepper_->started_at())}});
    if (ready_.valid()) {
      [[maybe_unused]] const ssize_t n = ::write(ready_.get(), "ready\n", 6);
      ready_.Reset();
    }
    if (phase_ == Phase::kDraining) Tell(KeeperVerb::kDrain);
  }

  void ReapStepper() {
    StepperExit exit;
    if (stepper_ == nullptr || !stepper_->TryReap(&exit)) return;
    OnStepper();  // what it sent before it died counts
    channel_.reset();
    stepper_.reset();
    kill_at_ = absl::InfiniteFuture();
    OnStepperGone(exit, exit.by_itself ? absl::StrCat("exit code ", exit.code)
                                       : absl::StrCat("signal ", exit.signal));
  }

  void OnStepperGone(const StepperExit& exit, const std::string& how) {
    if (phase_ == Phase::kFinishing) return End(kExitOk);
    if (stopping_) {
      Log(Severity::kInfo, "stepper.stopped", {{"how", how}});
      return End(exit.by_itself && exit.code == 0 ? kExitOk : kExitJobsCut);
    }
    const RestartDecision decision =
        policy_.Decide(absl::Now(), {served_, exit.by_itself, !ever_served_, table_.slabs() > 0});
    if (phase_ == Phase::kDraining && table_.slabs() == 0) return End(kExitOk);
    if (!decision.restart) {
      Log(Severity::kError, "stepper.given_up",
          {{"how", how},
           {"failures_in_a_row", policy_.failures_in_a_row()},
           {"slabs", table_.slabs()}});
      const bool told =
          exit.by_itself && (exit.code == kExitCannotStart || exit.code == kExitUsage);
      return End(told && !ever_served_ ? exit.code : kExitStepperDies);
    }
    Log(Severity::kWarning, "stepper.died",
        {{"how", how},
         {"served", served_},
         {"restart_in_ms", absl::ToInt64Milliseconds(decision.delay)},
         {"slabs", table_.slabs()},
         {"bytes", table_.total_bytes()}});
    served_ = false;
    restart_at_ = absl::Now() + decision.delay;
  }

  // ---- ranks

  void OnDoor() {
    for (;;) {
      UniqueFd socket(
          ::accept4(directory_->keeper_socket(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket.valid()) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno != EAGAIN)
          Log(Severity::kWarning, "keeper.cannot_accept",
              {{"error", ErrnoToStatus(errno, "accept")}});
        return;
      }
      const auto peer = PeerOf(socket.get());
      if (!peer.ok() || (peer->uid != ::geteuid() && peer->uid != 0)) {
        Log(Severity::kWarning, "keeper.stranger_refused",
            {{"uid", peer.ok() ? peer->uid : 0}, {"pid", peer.ok() ? peer->pid : 0}});
        continue;
      }
      if (ranks_.size() >= kRankConnectionsMax) continue;
      const uint64_t id = next_rank_++;
      if (!Watch(socket.get(), id, EPOLLIN | EPOLLRDHUP).ok()) continue;
      Connection connection{
          DescriptorChannel(std::move(socket)), {}, 0, absl::Now() + kFetchWithin};
      ranks_.emplace(id, std::move(connection));
    }
  }

  void OnRank(uint64_t id, uint32_t events) {
    const auto found = ranks_.find(id);
    if (found == ranks_.end()) return;
    Connection& connection = found->second;
    auto received = connection.channel.TryReceive();
    if (!received.ok()) return CloseRank(id);
    if (!received->has_value()) {
      if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) CloseRank(id);
      return;
    }
    if ((*received)->message.verb != KeeperVerb::kFetch || connection.session != 0)
      return CloseRank(id);
    OnStepper();  // a grant that was sent before the rank was told counts
    const uint64_t session = (*received)->message.session;
    const auto granted = table_.Fetch(session);
    connection.ask_by = absl::InfiniteFuture();
    KeeperMessage last;
    if (!granted.ok()) {
      Log(Severity::kWarning, "keeper.fetch_denied", {{"pid", PeerPid(connection)}});
      last.verb = KeeperVerb::kDenied;
      [[maybe_unused]] const auto sent = connection.channel.TrySend(last, -1);
      return CloseRank(id);
    }
    connection.session = session;
    table_.Connected(session);
    for (const uint64_t slab : *granted) {
      connection.outgoing.push_back({ToMessage(KeeperVerb::kSlab, *table_.Find(slab)), slab});
    }
    last.verb = KeeperVerb::kEnd;
    connection.outgoing.push_back({last, 0});
    if (!FlushToRank(&connection)) CloseRank(id);
  }

  static int PeerPid(const Connection& connection) {
    const auto peer = PeerOf(connection.channel.socket());
    return peer.ok() ? peer->pid : 0;
  }

  // False when the connection is of no use any more.
  bool FlushToRank(Connection* connection) {
    while (!connection->outgoing.empty()) {
      const Outgoing& next = connection->outgoing.front();
      int descriptor = -1;
      if (next.slab != 0) {
        const auto found = descriptors_.find(next.slab);
        if (found == descriptors_.end()) return false;  // dropped meanwhile: the rank must ask anew
        descriptor = found->second.get();
      }
      const auto sent = connection->channel.TrySend(next.message, descriptor);
      if (!sent.ok()) return false;
      if (!*sent) return true;
      connection->outgoing.pop_front();
    }
    return true;
  }

  void CloseRank(uint64_t id) {
    const auto found = ranks_.find(id);
    if (found == ranks_.end()) return;
    const uint64_t session = found->second.session;
    ranks_.erase(found);
    if (session == 0 || !table_.Disconnected(session)) return;
    Log(Severity::kInfo, "keeper.rank_gone", {{"sessions", table_.sessions()}});
    if (channel_ != nullptr) {
      PushRankGone(session);
      FlushToStepper();
    }
  }

  void CloseSession(uint64_t session) {
    std::erase_if(ranks_, [session](const auto& entry) { return entry.second.session == session; });
  }

  const KeeperOptions options_;
  std::unique_ptr<RuntimeDirectory> directory_;
  UniqueFd epoll_, signals_, lifeline_, ready_;
  KeeperTable table_;
  std::map<uint64_t, UniqueFd> descriptors_;  // of every slab in the table
  RestartPolicy policy_;

  std::unique_ptr<StepperProcess> stepper_;
  std::unique_ptr<DescriptorChannel>
      channel_;  // to the stepper that lives, or to what the dead one had sent
  std::deque<Outgoing> to_stepper_;
  int starts_ = 0;
  bool served_ = false;       // this stepper has said kReady
  bool ever_served_ = false;  // some stepper has
  bool stopping_ = false;     // it has said kStop: its end is ours
  absl::Time restart_at_ = absl::InfiniteFuture();
  absl::Time kill_at_ = absl::InfiniteFuture();

  std::map<uint64_t, Connection> ranks_;
  uint64_t next_rank_ = kFirstRank;

  Phase phase_ = Phase::kRunning;
  absl::Time end_by_ = absl::InfiniteFuture();
  int exit_code_ = kExitOk;
};

}  // namespace

int RunKeeper(const KeeperOptions& options) { return Keeper(options).Run(); }

}  // namespace muond
