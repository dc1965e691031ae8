// The stubs against a server in this process, over real sockets: what arrives, how errors map, old against new.
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "muond/v1/coordinator.grpc.pb.h"
#include "muond/v1/daemon.grpc.pb.h"
#include "proto/stubs/coordinator_stub.h"
#include "proto/stubs/daemon_stub.h"
#include "proto/stubs/grpc_status.h"
#include "proto/types/convert.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Replicated;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

// A daemon that speaks a given version.
class FakeDaemon final : public v1::Daemon::Service {
 public:
  explicit FakeDaemon(ProtocolVersion version) : version_(std::move(version)) {}

  grpc::Status Join(grpc::ServerContext*, const v1::JoinRequest* request,
                    v1::JoinResponse* response) override {
    if (absl::Status status = CheckVersion(FromProto(request->version()), "the client", version_);
        !status.ok()) {
      return ToGrpc(status);
    }
    const absl::StatusOr<JoinCall> call = FromProto(*request);
    if (!call.ok()) return ToGrpc(call.status());
    ToProto(JoinReply{version_, 5, 6, 1, 1, call->manifest.tensors.size()}, response);
    return grpc::Status::OK;
  }
  grpc::Status Attach(grpc::ServerContext*, const v1::AttachRequest*,
                      v1::AttachResponse*) override {
    return ToGrpc(absl::ResourceExhaustedError("slab needs 8 bytes, 4 left on device 0"));
  }
  grpc::Status FetchState(grpc::ServerContext*, const v1::FetchStateRequest* request,
                          grpc::ServerWriter<v1::StateChunk>* writer) override {
    for (int tensor : request->tensors()) {
      v1::StateChunk chunk;
      ToProto(StateChunk{0, tensor, StateField::kMomentum, 0, std::string(1000, 'm')}, &chunk);
      writer->Write(chunk);
    }
    return grpc::Status::OK;
  }
  grpc::Status PushState(grpc::ServerContext*, grpc::ServerReader<v1::StateChunk>* reader,
                         v1::PushStateResponse* response) override {
    v1::StateChunk message;
    uint64_t bytes = 0;
    while (reader->Read(&message)) {
      if (message.tensor() == 13) return ToGrpc(absl::NotFoundError("tensor 13 of 12"));
      bytes += message.data().size();
    }
    response->set_bytes(bytes);
    return grpc::Status::OK;
  }
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::GetStatusResponse* response) override {
    DaemonStatus status;
    status.version = version_;
    status.stepper_pid = 99;
    ToProto(status, response);
    return grpc::Status::OK;
  }

 private:
  const ProtocolVersion version_;
};

class StubsTest : public ::testing::Test {
 protected:
  void Serve(ProtocolVersion version) {
    path_ = std::filesystem::temp_directory_path() /
            ("muond-stubs-" + std::to_string(getpid()) + ".sock");
    std::filesystem::remove(path_);
    service_ = std::make_unique<FakeDaemon>(std::move(version));
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + path_.string(), grpc::InsecureServerCredentials());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  std::unique_ptr<DaemonStub> Stub(ProtocolVersion version = {}) {
    StubOptions options;
    options.version = std::move(version);
    return *DaemonStub::Create("unix:" + path_.string(), options);
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown();
    std::filesystem::remove(path_);
  }
  static JoinCall Call() {
    JoinCall call;
    call.manifest = EmptyManifest(1);
    call.manifest.tensors = {Tensor("a", {2, 2}), Tensor("b", {3}, Rule::kAdamW)};
    call.rank = Replicated(call.manifest)[0];
    return call;
  }

  std::filesystem::path path_;
  std::unique_ptr<FakeDaemon> service_;
  std::unique_ptr<grpc::Server> server_;
};

// Stands between a caller and a server, and passes on what the caller says `late` after it connected: a server on a machine
// that has no time for it.
class LateDoor {
 public:
  LateDoor(const std::filesystem::path& path, const std::filesystem::path& server,
           std::chrono::milliseconds late)
      : path_(path), door_(ListenStream(path)), thread_([this, server, late] {
          const int caller = ::accept(door_, nullptr, nullptr);
          std::this_thread::sleep_for(late);
          const int far = ConnectStream(server);
          pollfd ends[2] = {{caller, POLLIN, 0}, {far, POLLIN, 0}};
          for (bool open = true; open && ::poll(ends, 2, -1) > 0;) {
            for (int i = 0; i < 2; ++i) {
              if (ends[i].revents == 0) continue;
              char bytes[4096];
              const ssize_t got = ::read(ends[i].fd, bytes, sizeof bytes);
              open = open && got > 0 && ::write(ends[1 - i].fd, bytes, got) == got;
            }
          }
          ::close(caller);
          ::close(far);
        }) {}
  ~LateDoor() {
    thread_.join();
    ::close(door_);
    std::filesystem::remove(path_);
  }

 private:
  static sockaddr_un Address(const std::filesystem::path& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
  }
  static int ListenStream(const std::filesystem::path& path) {
    std::filesystem::remove(path);
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = Address(path);
    EXPECT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(socket, 8), 0);
    return socket;
  }
  static int ConnectStream(const std::filesystem::path& path) {
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = Address(path);
    EXPECT_EQ(::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return socket;
  }

  const std::filesystem::path path_;
  const int door_;
  std::thread thread_;
};

TEST_F(StubsTest, AServerThatGreetsLateIsWaitedFor) {
  Serve({});
  const std::filesystem::path path = path_.string() + ".late";
  LateDoor door(path, path_, std::chrono::milliseconds(700));
  auto stub = *DaemonStub::Create("unix:" + path.string());
  const absl::StatusOr<DaemonStatus> status = stub->GetStatus(absl::Seconds(30));
  stub.reset();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->stepper_pid, 99);
}

TEST_F(StubsTest, ValuesArriveAndComeBack) {
  Serve({});
  const absl::StatusOr<JoinReply> reply = Stub()->Join(Call(), absl::Minutes(1));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->session, 6u);
  EXPECT_EQ(reply->last_step, 2u);  // the fake answers with the count of tensors
}

TEST_F(StubsTest, OldAgainstNewBothWays) {
  Serve({1, 0, "old"});
  EXPECT_TRUE(Stub({1, 7, "new"})->Join(Call(), absl::Minutes(1)).ok());
  TearDown();
  Serve({1, 7, "new"});
  EXPECT_TRUE(Stub({1, 0, "old"})->Join(Call(), absl::Minutes(1)).ok());
  EXPECT_TRUE(Stub({1, 0, "old"})->GetStatus().ok());
}

TEST_F(StubsTest, AnotherMajorVersionIsRefusedNamingBothOnBothSides) {
  Serve({2, 0, "next"});
  const absl::Status joined = Stub({1, 3, "mine"})->Join(Call(), absl::Minutes(1)).status();
  EXPECT_EQ(joined.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(joined.message()),
      HasSubstr("the client speaks protocol 1.3 (build 'mine'), this side 2.0 (build 'next')"));
  const absl::Status asked = Stub({1, 3, "mine"})->GetStatus().status();
  EXPECT_EQ(asked.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(asked.message()),
              HasSubstr("speaks protocol 2.0 (build 'next'), this side 1.3 (build 'mine')"));
}

TEST_F(StubsTest, ThePeersOwnStatusPassesWordForWord) {
  Serve({});
  const absl::Status status = Stub()->Attach(6).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "slab needs 8 bytes, 4 left on device 0");
  EXPECT_EQ(Stub()->Detach(6).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(StubsTest, NoDaemonIsUnavailableAndNamesTheEndpoint) {
  path_ = "/tmp/muond-nobody-listens-here.sock";
  const absl::Status status = Stub()->GetStatus(absl::Seconds(5)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("the daemon at unix:/tmp/muond-nobody-listens-here.sock cannot be reached"));
}

TEST_F(StubsTest, StateStreamsBothWays) {
  Serve({});
  int chunks = 0;
  EXPECT_TRUE(Stub()
                  ->FetchState({6, {4, 5, 6}, {StateField::kMomentum}},
                               [&](const StateChunk& chunk) {
                                 EXPECT_EQ(chunk.tensor, 4 + chunks++);
                                 EXPECT_EQ(chunk.data.size(), 1000u);
                                 return absl::OkStatus();
                               })
                  .ok());
  EXPECT_EQ(chunks, 3);
  int left = 4;
  const absl::StatusOr<uint64_t> pushed = Stub()->PushState([&](StateChunk* chunk) {
    chunk->data.assign(10, 'x');
    return left-- > 0;
  });
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_EQ(*pushed, 40u);
}

TEST_F(StubsTest, AStreamEndsWithTheErrorOfWhoeverRefused) {
  Serve({});
  const absl::Status fetched =
      Stub()->FetchState({6, {4, 5}, {StateField::kMomentum}},
                         [](const StateChunk&) { return absl::DataLossError("disk full"); });
  EXPECT_EQ(fetched, absl::DataLossError("disk full"));
  int left = 100'000;
  const absl::StatusOr<uint64_t> pushed = Stub()->PushState([&](StateChunk* chunk) {
    chunk->tensor = 13;
    return left-- > 0;
  });
  EXPECT_EQ(pushed.status(), absl::NotFoundError("tensor 13 of 12"));
}

}  // namespace
}  // namespace muond
