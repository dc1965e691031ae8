// CutDoor: a stream socket in front of another one, which keeps replies back and breaks connections when a test says so.
// Threads: Hold and Cut from any; what they promise is true when they return.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace muond {

class CutDoor {
 public:
  // Listens at `path` and passes on to the socket `server`. REQUIRES: paths of at most 107 bytes.
  CutDoor(const std::string& path, std::string server)
      : path_(path), server_(std::move(server)), wake_(::eventfd(0, EFD_CLOEXEC)), door_(Socket()) {
    ::unlink(path.c_str());
    const sockaddr_un address = Address(path);
    EXPECT_EQ(::bind(door_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(door_, 8), 0);
    thread_ = std::thread([this] { Pass(); });
  }
  ~CutDoor() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    Wake();
    thread_.join();
    Cut();
    ::close(door_);
    ::close(wake_);
    ::unlink(path_.c_str());
  }
  std::string endpoint() const { return "unix:" + path_; }

  // From now on nothing that the server says gets through.
  void Hold() {
    std::lock_guard lock(mutex_);
    held_ = true;
  }
  // The connections that are open end; new ones are passed on as if nothing had been.
  void Cut() {
    std::lock_guard lock(mutex_);
    for (const Pair& pair : pairs_) {
      ::close(pair.caller);
      ::close(pair.server);
    }
    pairs_.clear();
    held_ = false;
    Wake();
  }

 private:
  struct Pair {
    int caller, server;
  };

  static int Socket() { return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); }
  static sockaddr_un Address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
  }
  void Wake() {
    const uint64_t one = 1;
    EXPECT_EQ(::write(wake_, &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }

  void Pass() {
    for (;;) {
      std::vector<pollfd> ends = {{wake_, POLLIN, 0}, {door_, POLLIN, 0}};
      {
        std::lock_guard lock(mutex_);
        for (const Pair& pair : pairs_) {
          ends.push_back({pair.caller, POLLIN, 0});
          // Left alone while it is held: a poll of what nobody reads would spin.
          ends.push_back({held_ ? -1 : pair.server, POLLIN, 0});
        }
      }
      ::poll(ends.data(), ends.size(), -1);
      std::lock_guard lock(mutex_);
      if (over_) return;
      uint64_t count = 0;
      if (ends[0].revents != 0 && ::read(wake_, &count, sizeof count) > 0) continue;
      if (ends[1].revents != 0) Open();
      pairs_.remove_if([this](const Pair& pair) {
        const bool open =
            Move(pair.caller, pair.server) && (held_ || Move(pair.server, pair.caller));
        if (!open) ::close(pair.caller), ::close(pair.server);
        return !open;
      });
    }
  }
  void Open() {
    const Pair pair{::accept4(door_, nullptr, nullptr, SOCK_CLOEXEC), Socket()};
    const sockaddr_un address = Address(server_);
    if (::connect(pair.server, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      pairs_.push_back(pair);
    } else {
      ::close(pair.caller), ::close(pair.server);
    }
  }
  // Everything that has come; false when `from` has ended.
  static bool Move(int from, int to) {
    char bytes[4096];
    ssize_t got;
    while ((got = ::recv(from, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
      if (::send(to, bytes, static_cast<size_t>(got), MSG_NOSIGNAL) != got) return false;
    }
    return got < 0 && (errno == EAGAIN || errno == EINTR);
  }

  const std::string path_, server_;
  const int wake_, door_;
  std::mutex mutex_;
  std::list<Pair> pairs_;
  bool held_ = false, over_ = false;
  std::thread thread_;
};

}  // namespace muond
