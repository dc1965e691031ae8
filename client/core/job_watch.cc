#include "client/core/job_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cerrno>

namespace muond {
namespace {

// How long a job that was given up may keep a stream waiting.
constexpr int kLookMs = 50;

bool HungUp(int socket) {
  char byte = 0;
  const ssize_t got = ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobWatch>> JobWatch::Start(int keeper, const Cell* given_up,
                                                          Cell* step_over) {
  UniqueFd end(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!end.valid()) return absl::ErrnoToStatus(errno, "an event descriptor");
  std::unique_ptr<JobWatch> watch(new JobWatch(keeper, given_up, step_over, std::move(end)));
  watch->thread_ = std::thread([raw = watch.get()] { raw->Run(); });
  return watch;
}

JobWatch::~JobWatch() {
  if (::getpid() != owner_pid_) {  // fork() took the object along, not the thread
    thread_.detach();
    return;
  }
  const uint64_t one = 1;
  while (::write(end_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
  thread_.join();
}

uint64_t JobWatch::Outcome() const {
  const uint64_t now = step_over_->load(std::memory_order_acquire);
  return now < kPoison ? now : kept_.load(std::memory_order_acquire);
}

void JobWatch::Run() {
  for (;;) {
    pollfd watched[2] = {{end_.get(), POLLIN, 0}, {keeper_, POLLIN, 0}};
    ::poll(watched, 2, kLookMs);
    if (watched[0].revents != 0) return;
    const bool gone = watched[1].revents != 0 && HungUp(keeper_);
    if (!gone && given_up_->load(std::memory_order_acquire) == 0) continue;
    // Nobody advances the cell any more.
    kept_.store(step_over_->exchange(kPoison, std::memory_order_acq_rel),
                std::memory_order_release);
    StoreCell(step_over_, kPoison);  // and wakes whoever sleeps on it
    return;
  }
}

}  // namespace muond
