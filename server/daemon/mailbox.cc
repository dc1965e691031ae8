#include "server/daemon/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "proto/carrier/ipc/unix_socket.h"

namespace muond {

absl::StatusOr<std::unique_ptr<Mailbox>> Mailbox::Create() {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return ErrnoToStatus(errno, "eventfd of the step loop");
  return std::unique_ptr<Mailbox>(new Mailbox(std::move(event)));
}

void Mailbox::Wake() {
  const uint64_t one = 1;
  // The counter cannot overflow: one write for each Take. A failed write has no other cause.
  [[maybe_unused]] const ssize_t written = ::write(event_.get(), &one, sizeof one);
}

void Mailbox::Post(const Completion& completion) {
  absl::MutexLock lock(&mutex_);
  completions_.push_back(completion);
  if (!woken_) Wake();
  woken_ = true;
}

bool Mailbox::Post(absl::AnyInvocable<void()> command) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return false;
  commands_.push_back(std::move(command));
  if (!woken_) Wake();
  woken_ = true;
  return true;
}

void Mailbox::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

void Mailbox::Take(std::vector<Completion>* completions,
                   std::vector<absl::AnyInvocable<void()>>* commands) {
  completions->clear();
  commands->clear();
  absl::MutexLock lock(&mutex_);
  completions->swap(completions_);
  commands->swap(commands_);
  if (!woken_) return;
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(event_.get(), &count, sizeof count);
  woken_ = false;
}

}  // namespace muond
