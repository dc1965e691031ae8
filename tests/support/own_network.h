// Moves the calling process into a network namespace of its own, with the /sys that belongs to it: UCX lists interfaces
// from there. Needs the right to do so (root).
#pragma once

#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace muond {

// Empty, or why not. REQUIRES: no other thread runs yet.
inline std::string MoveIntoOwnNetwork() {
  if (::unshare(CLONE_NEWNET | CLONE_NEWNS) != 0)
    return std::string("no network namespace for this user: ") + std::strerror(errno);
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0) {
    return std::string("no /sys for the new namespace: ") + std::strerror(errno);
  }
  return "";
}

}  // namespace muond
