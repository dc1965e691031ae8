// EtcdUnderTest: a real etcd of one member in a scratch directory, on a Unix socket, ended with the test. It can be killed and
// started again on its data.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "proto/stubs/etcd_stub.h"
#include "tests/support/child_process.h"
#include "tests/support/scratch_directory.h"

namespace muond {

class EtcdUnderTest {
 public:
  static constexpr const char* kProgram = "/usr/bin/etcd";
  static bool Installed() { return std::filesystem::exists(kProgram); }

  EtcdUnderTest() { Start(); }
  void Start() {
    // etcd makes its sockets in its working directory, named as the URLs' host and port.
    const std::string script =
        "cd " + scratch_.path() + " && exec setpriv --pdeathsig KILL " + kProgram +
        " --name a --data-dir data --listen-client-urls unix://c:1 --advertise-client-urls "
        "unix://c:1 --listen-peer-urls unix://p:1 --initial-advertise-peer-urls unix://p:1 "
        "--initial-cluster a=unix://p:1";
    std::filesystem::remove(scratch_ / "c:1");
    std::filesystem::remove(scratch_ / "p:1");
    process_ = std::make_unique<ChildProcess>(std::vector<std::string>{"/bin/sh", "-c", script},
                                              scratch_ / "log", scratch_ / "out");
    EXPECT_TRUE(Eventually([this] { return Stub()->Get("x").ok(); })) << log();
  }
  void Kill() {
    process_->Signal(SIGKILL);
    process_->Wait();
  }
  std::string endpoint() const { return "unix:" + (scratch_ / "c:1"); }
  std::string log() const { return ReadWhole(scratch_ / "log"); }
  std::unique_ptr<EtcdStub> Stub() const { return *EtcdStub::Create(endpoint(), StubOptions()); }

 private:
  ScratchDirectory scratch_;
  std::unique_ptr<ChildProcess> process_;
};

}  // namespace muond
