// The gRPC door over a real Unix socket, called by the real stub, with a StepLoop that is a table of answers.
#include "server/daemon/daemon_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <mutex>
#include <thread>

#include "muond/v1/daemon.grpc.pb.h"
#include "proto/stubs/daemon_stub.h"
#include "proto/types/convert.h"
#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

class FakeLoop : public DaemonCommands {
 public:
  void Join(JoinCommand command, Done<Joined> done) override {
    std::lock_guard lock(mutex);
    joins.push_back(command);
    if (command.manifest->world_size == 1) return done(Joined{1, 77, 2, 3, 4});
    waiting.emplace_back(command.ticket, std::move(done));
  }
  void CancelJoin(uint64_t ticket) override {
    Done<Joined> found;
    {
      std::lock_guard lock(mutex);
      for (auto& [id, done] : waiting) {
        if (id == ticket) found = std::move(done);
      }
      cancelled.push_back(ticket);
    }
    if (found) found(absl::CancelledError("the caller went away"));
  }
  void Attach(uint64_t session, Done<Attached> done) override {
    if (session != 77) return done(absl::NotFoundError("no session"));
    Attached attached;
    attached.gradient_slab_bytes = 1000;
    attached.blocks = {{0, 0, 64, true}, {1, 128, 256, false}};
    attached.buckets = {{{0, 1}, {5}}};
    attached.items = 6;
    attached.page_blocks_max = 9;
    done(attached);
  }
  void Detach(uint64_t, Done<std::monostate> done) override {
    done(absl::InternalError("secret 0x1234"));
  }
  void GetPlan(uint64_t, uint64_t, Done<std::shared_ptr<const Plan>>) override {
  }  // dropped uncalled
  void ReadState(ReadStateCommand c, Done<StatePiece> done) override {
    if (c.session != 77) return done(absl::NotFoundError("no session"));
    StatePiece piece;
    piece.step = c.offset_bytes == 0 ? 5 : 5 + step_jump;
    piece.total_bytes = 2'500'000;
    piece.data.assign(std::min(c.size_bytes_max, piece.total_bytes - c.offset_bytes),
                      static_cast<char>('a' + c.tensor));
    done(std::move(piece));
  }
  void WriteState(WriteStateCommand c, Done<std::monostate> done) override {
    if (c.tensor > 5) return done(absl::InvalidArgumentError("tensor 6 of 6"));
    written += c.data.size();
    done(std::monostate());
  }
  void Snapshot(SnapshotCommand c, Done<SnapshotTaken> done) override {
    done(SnapshotTaken{8, c.directory + "/m", 9});
  }
  void Drain(absl::Time, Done<int32_t> done) override { done(3); }
  void Status(Done<StatusReport> done) override {
    StatusReport report;
    report.jobs.resize(1);
    report.jobs[0].name = "j";
    report.jobs[0].ranks = {{0, 11, RankState::kAttached, 0.5}};
    report.devices.resize(1);
    done(report);
  }

  std::mutex mutex;
  std::vector<JoinCommand> joins;
  std::vector<std::pair<uint64_t, Done<Joined>>> waiting;
  std::vector<uint64_t> cancelled;
  uint64_t written = 0, step_jump = 0;
};

JoinCall CallOf(int world_size) {
  JoinCall call;
  call.manifest.job = "j";
  call.manifest.world_size = world_size;
  call.manifest.groups.resize(1);
  call.manifest.groups[0].name = "g";
  TensorSpec tensor;
  tensor.name = "w";
  tensor.shape = {4, 3};
  call.manifest.tensors = {tensor};
  ShardSpec shard;
  shard.offset = {0, 0};
  shard.extent = {4, 3};
  call.rank.shards = {shard};
  return call;
}

class DaemonServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(path_) << "";  // in the way, as a dead stepper's socket is
    GrpcDoorOptions options;
    options.commands = &loop_;
    options.unix_path = path_;
    options.tcp = "127.0.0.1:0";
    options.keeper_socket = "/k";
    options.frame_socket = "/f";
    options.join_timeout = absl::Seconds(7);
    options.complete_status = [](StatusReport* report) { report->keeper_pid = 99; };
    auto door = GrpcDoor::Open(options);
    ASSERT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
    auto stub = DaemonStub::Create(door_->unix_endpoint());
    ASSERT_TRUE(stub.ok()) << stub.status();
    stub_ = *std::move(stub);
  }
  ScratchDirectory scratch_;
  const std::string path_ = scratch_ / "grpc.sock";
  FakeLoop loop_;
  std::unique_ptr<GrpcDoor> door_;
  std::unique_ptr<DaemonStub> stub_;
};

TEST_F(DaemonServiceTest, JoinTravelsAsValuesBothWays) {
  const auto reply = stub_->Join(CallOf(1), absl::Seconds(20));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->session, 77u);
  EXPECT_EQ(reply->incarnation, 2u);
  EXPECT_EQ(reply->epoch, 3u);
  EXPECT_EQ(reply->last_step, 4u);
  EXPECT_EQ(loop_.joins.at(0).manifest->tensors.at(0).name, "w");
  // The caller's twenty seconds are more than join_timeout.
  EXPECT_LT(loop_.joins.at(0).deadline, absl::Now() + absl::Seconds(7));
}

TEST_F(DaemonServiceTest, AnotherMajorVersionIsToldBothVersions) {
  StubOptions old;
  old.version.major_number = 9;
  auto stub = DaemonStub::Create(door_->unix_endpoint(), old);
  const auto status = (*stub)->Join(CallOf(1), absl::Minutes(1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), ::testing::AllOf(HasSubstr("9."), HasSubstr("1.")));
  EXPECT_TRUE(loop_.joins.empty());
}

TEST_F(DaemonServiceTest, ABadManifestNeverReachesTheLoop) {
  JoinCall call = CallOf(1);
  call.manifest.tensors[0].shape = {int64_t{1} << 20, int64_t{1} << 20};
  const auto status = stub_->Join(call, absl::Minutes(1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_TRUE(loop_.joins.empty());
}

TEST_F(DaemonServiceTest, AJoinWhoseCallerGivesUpIsCancelledInTheLoop) {
  v1::JoinRequest request;
  ToProto(CallOf(2), &request);
  v1::JoinResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  const auto channel =
      grpc::CreateChannel(door_->unix_endpoint(), grpc::InsecureChannelCredentials());
  EXPECT_EQ(v1::Daemon::NewStub(channel)->Join(&context, request, &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  for (int i = 0; i < 500; ++i) {
    {
      std::lock_guard lock(loop_.mutex);
      if (!loop_.cancelled.empty()) break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::lock_guard lock(loop_.mutex);
  ASSERT_EQ(loop_.cancelled.size(), 1u);
  EXPECT_EQ(loop_.cancelled[0], loop_.joins.at(0).ticket);
}

TEST_F(DaemonServiceTest, AttachAddsTheSockets) {
  const auto reply = stub_->Attach(77);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->keeper_socket, "/k");
  EXPECT_EQ(reply->frame_socket, "/f");
  ASSERT_EQ(reply->shards.size(), 2u);
  EXPECT_EQ(reply->shards[1].parameter_offset, 256u);
  EXPECT_FALSE(reply->shards[1].push_gradient);
  EXPECT_EQ(reply->buckets.at(0).items.at(0), 5);
  EXPECT_EQ(reply->page_blocks_max, 9);
  EXPECT_EQ(stub_->Attach(78).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DaemonServiceTest, InternalDetailStaysInTheLog) {
  const auto status = stub_->Detach(77);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(status.message()).find("secret"), std::string::npos);
}

TEST_F(DaemonServiceTest, ACallbackThatIsDroppedIsUnavailableNotForEver) {
  EXPECT_EQ(stub_->GetPlan(1, 0).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(DaemonServiceTest, StateComesInPiecesInOrder) {
  std::map<int, std::string> got;
  int chunks = 0;
  const auto status =
      stub_->FetchState({77, {0, 3}, {StateField::kMomentum}}, [&](const StateChunk& chunk) {
        EXPECT_EQ(chunk.offset_bytes, got[chunk.tensor].size());
        got[chunk.tensor] += chunk.data;
        ++chunks;
        return absl::OkStatus();
      });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(chunks, 6);
  EXPECT_EQ(got[0], std::string(2'500'000, 'a'));
  EXPECT_EQ(got[3], std::string(2'500'000, 'd'));
  EXPECT_EQ(stub_
                ->FetchState({78, {0}, {StateField::kMomentum}},
                             [](const StateChunk&) { return absl::OkStatus(); })
                .code(),
            absl::StatusCode::kNotFound);
}

TEST_F(DaemonServiceTest, AStepBetweenPiecesIsAborted) {
  loop_.step_jump = 1;
  const auto status = stub_->FetchState({77, {0}, {StateField::kMomentum}},
                                        [](const StateChunk&) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
}

TEST_F(DaemonServiceTest, APushIsWrittenAndCounted) {
  int left = 5;
  const auto bytes = stub_->PushState([&](StateChunk* chunk) {
    if (left-- == 0) return false;
    chunk->session = 77;
    chunk->tensor = 1;
    chunk->data.assign(1000, 'x');
    return true;
  });
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, 5000u);
  EXPECT_EQ(loop_.written, 5000u);
  bool first = true;
  const auto refused = stub_->PushState([&](StateChunk* chunk) {
    chunk->session = 77;
    chunk->tensor = 6;
    chunk->data = "x";
    return std::exchange(first, false);
  });
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DaemonServiceTest, StatusAndDrainOverTcpToo) {
  auto stub = DaemonStub::Create(door_->tcp_endpoint());
  ASSERT_TRUE(stub.ok()) << stub.status();
  const auto status = (*stub)->GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->keeper_pid, 99);
  EXPECT_EQ(status->jobs.at(0).ranks.at(0).state, "attached");
  EXPECT_EQ(*(*stub)->Drain(absl::Milliseconds(10)), 3);
}

TEST_F(DaemonServiceTest, ATakenTcpPortIsUnavailableWithItsAddress) {
  GrpcDoorOptions options;
  options.commands = &loop_;
  options.unix_path = scratch_ / "other.sock";
  options.tcp = door_->tcp_endpoint();
  const auto second = GrpcDoor::Open(options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options.tcp));
}

}  // namespace
}  // namespace muond
