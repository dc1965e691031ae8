#include "client/core/frame_line.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/core/fork_guard.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

constexpr absl::Duration kBackOffMax = absl::Milliseconds(50);
// A stepper that took the connection and says nothing for so long is being replaced, or has lost
// us.
constexpr absl::Duration kWelcomeTimeout = absl::Seconds(5);
constexpr int kSendTimeoutMs = 100;

int MillisecondsUp(absl::Duration duration) {
  return static_cast<int>(std::clamp<int64_t>(
      absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1))), 0, 60'000));
}

}  // namespace

FrameLine::FrameLine(std::string path, const Frame& identity, std::unique_ptr<SlabFetch> keeper,
                     absl::Duration repair_timeout)
    : path_(std::move(path)),
      identity_(identity),
      keeper_(std::move(keeper)),
      repair_timeout_(repair_timeout) {}

FrameLine::~FrameLine() {
  if (socket_.valid()) UnguardDescriptor(socket_.get());
}

Frame FrameLine::Make(FrameType type, uint64_t step) const {
  Frame frame = identity_;
  frame.type = type;
  frame.step = step;
  return frame;
}

void FrameLine::Send(const Frame& frame) {
  if (!socket_.valid()) return;
  const std::array<std::byte, kFrameBytes> bytes = Encode(frame);
  for (bool waited = false;; waited = true) {
    const ssize_t sent =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return;
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
      why_down_ = absl::ErrnoToStatus(errno, "sending a frame");
      return Lose();
    }
    if (waited) return;  // a stopped stepper: its owner says everything again after a while
    pollfd room = {socket_.get(), POLLOUT, 0};
    ::poll(&room, 1, kSendTimeoutMs);
  }
}

void FrameLine::Lose() {
  if (!socket_.valid()) return;
  UnguardDescriptor(socket_.get());
  socket_.Reset();
  if (state_ == State::kWelcome) {
    ++losses_;
    down_since_ = absl::InfinitePast();
    back_off_ = absl::Milliseconds(1);
  }
  state_ = State::kDown;
}

void FrameLine::Die() {
  dead_ = absl::UnavailableError(
      absl::StrFormat("the daemon is gone: its keeper closed the connection of rank %d. Parameters "
                      "hold the values of the last finished step; the optimizer state went with "
                      "the daemon: to go on, make a new optimizer and load a saved state into it",
                      identity_.rank));
  Lose();
}

void FrameLine::Connect(uint64_t last_step) {
  absl::StatusOr<UniqueFd> socket = ConnectSeqpacket(path_);
  if (!socket.ok()) {
    why_down_ = socket.status();
    return;
  }
  if (absl::Status guarded = GuardDescriptor(socket->get()); !guarded.ok()) {
    why_down_ = guarded;
    return;
  }
  socket_ = *std::move(socket);
  state_ = State::kGreeting;
  greeted_at_ = absl::Now();
  Send(Make(FrameType::kHello, last_step));
}

void FrameLine::Receive(std::vector<Frame>* frames) {
  while (socket_.valid()) {
    std::array<std::byte, kFrameBytes + 1> bytes;
    const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got <= 0) {
      why_down_ = got == 0 ? absl::UnavailableError("the stepper closed its connection")
                           : absl::ErrnoToStatus(errno, "receiving a frame");
      return Lose();
    }
    const absl::StatusOr<Frame> frame =
        got == kFrameBytes ? Decode(std::span<const std::byte>(bytes.data(), kFrameBytes))
                           : absl::StatusOr<Frame>(absl::InvalidArgumentError(absl::StrFormat(
                                 "a frame has %d bytes, the daemon sent %d", kFrameBytes, got)));
    if (!frame.ok()) {  // not a daemon of ours: what it says cannot be believed
      why_down_ = frame.status();
      return Lose();
    }
    if (frame->session != identity_.session) continue;
    if (frame->type == FrameType::kPing) {
      Frame pong = Make(FrameType::kPong, frame->step);
      pong.value = frame->value;
      Send(pong);
      continue;
    }
    frames->push_back(*frame);
  }
}

absl::StatusOr<LineEvent> FrameLine::Wait(absl::Duration timeout, uint64_t last_step,
                                          std::vector<Frame>* frames) {
  const absl::Time end = absl::Now() + timeout;
  frames->clear();
  for (bool looked = false;; looked = true) {
    if (!dead_.ok()) return dead_;
    absl::Time now = absl::Now();
    if (looked && now >= end) return LineEvent::kNothing;
    if (state_ != State::kWelcome) {
      if (down_since_ == absl::InfinitePast()) down_since_ = now;
      if (now - down_since_ > repair_timeout_) {
        dead_ = absl::UnavailableError(absl::StrFormat(
            "no stepper has answered at %s for %.1f s (the keeper is there; its log tells why): %s",
            path_, absl::ToDoubleSeconds(now - down_since_), why_down_.message()));
        return dead_;
      }
      if (state_ == State::kGreeting && now - greeted_at_ > kWelcomeTimeout) {
        why_down_ = absl::DeadlineExceededError("the stepper took the connection and said nothing");
        Lose();
      }
      if (state_ == State::kDown) Connect(last_step);
    }
    absl::Duration nap = std::max(end - now, absl::ZeroDuration());
    if (state_ == State::kDown) {
      nap = std::min(nap, back_off_);
      back_off_ = std::min(back_off_ * 2, kBackOffMax);
    } else if (state_ == State::kGreeting) {
      nap = std::min(nap, kWelcomeTimeout);
    }
    pollfd watched[2] = {{keeper_->event_descriptor(), POLLIN, 0}, {socket_.get(), POLLIN, 0}};
    ::poll(watched, socket_.valid() ? 2 : 1, MillisecondsUp(nap));
    Receive(frames);
    if (watched[0].revents != 0 && keeper_->keeper_gone()) Die();
    const bool greeted = state_ == State::kGreeting &&
                         std::any_of(frames->begin(), frames->end(), [](const Frame& frame) {
                           return frame.type == FrameType::kWelcome;
                         });
    if (greeted) {
      state_ = State::kWelcome;
      down_since_ = absl::InfinitePast();
      back_off_ = absl::Milliseconds(1);
      return LineEvent::kWelcome;
    }
    if (!frames->empty())
      return LineEvent::kFrames;  // a death is told next time: what came before it counts
  }
}

}  // namespace muond
