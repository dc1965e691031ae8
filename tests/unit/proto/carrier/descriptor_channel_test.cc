#include "proto/carrier/ipc/descriptor_channel.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>

#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

int OpenDescriptors() {
  int count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

KeeperMessage SlabMessage(uint64_t slab, uint64_t size_bytes) {
  KeeperMessage message;
  message.verb = KeeperVerb::kSlab;
  message.slab = slab;
  message.size_bytes = size_bytes;
  SetLabel(message, "gradient of rank 0");
  return message;
}

class DescriptorChannelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = SeqpacketPair();
    ASSERT_TRUE(pair.ok()) << pair.status();
    raw_ = pair->first.get();
    a_ = std::make_unique<DescriptorChannel>(std::move(pair->first));
    b_ = std::make_unique<DescriptorChannel>(std::move(pair->second));
  }
  // `count` descriptors with `size` bytes of a message.
  void SendRaw(const void* data, size_t size, int descriptor, int count) {
    iovec part{const_cast<void*>(data), size};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (count > 0) {
      header.msg_control = control;
      header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
      cmsghdr* attached = CMSG_FIRSTHDR(&header);
      attached->cmsg_level = SOL_SOCKET;
      attached->cmsg_type = SCM_RIGHTS;
      attached->cmsg_len = CMSG_LEN(sizeof(int) * count);
      for (int i = 0; i < count; ++i)
        std::memcpy(CMSG_DATA(attached) + i * sizeof(int), &descriptor, sizeof(int));
    }
    ASSERT_EQ(::sendmsg(raw_, &header, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }
  int raw_ = -1;
  std::unique_ptr<DescriptorChannel> a_, b_;
};

TEST_F(DescriptorChannelTest, TheReceiverGetsTheSameMemoryUnderAnotherDescriptor) {
  UniqueFd memory(::memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(::pwrite(memory.get(), "muond", 5, 0), 5);
  ASSERT_TRUE(a_->Send(SlabMessage(77, 5), memory.get()).ok());
  auto got = b_->Receive(1000);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->message.slab, 77u);
  EXPECT_EQ(LabelOf(got->message), "gradient of rank 0");
  EXPECT_NE(got->descriptor.get(), memory.get());
  memory.Reset();
  char text[6] = {};
  ASSERT_EQ(::pread(got->descriptor.get(), text, 5, 0), 5);
  EXPECT_STREQ(text, "muond");
}

TEST_F(DescriptorChannelTest, NothingThereIsNothingNotAnError) {
  auto none = b_->TryReceive();
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
  EXPECT_EQ(b_->Receive(20).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(DescriptorChannelTest, AClosedPeerIsUnavailable) {
  a_.reset();
  EXPECT_EQ(b_->Receive(1000).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(DescriptorChannelTest, RubbishIsRefusedAndNoDescriptorLeaks) {
  UniqueFd memory(::memfd_create("test", MFD_CLOEXEC));
  const KeeperMessage slab = SlabMessage(1, 5);
  KeeperMessage end;
  end.verb = KeeperVerb::kEnd;
  const int before = OpenDescriptors();
  const char oversized[300] = {};
  const struct {
    const void* data;
    size_t size;
    int descriptors;
    const char* told;
  } cases[] = {
      {&slab, 127, 1, "127"},           {oversized, 300, 1, "129"},
      {oversized, 128, 0, "magic"},     {&slab, 128, 0, "0 descriptors"},
      {&slab, 128, 3, "3 descriptors"}, {&slab, 128, 6, "expected 1"},
      {&end, 128, 1, "1 descriptors"},
  };
  for (const auto& c : cases) {
    SendRaw(c.data, c.size, memory.get(), c.descriptors);
    const auto got = b_->TryReceive();
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument) << c.told;
    EXPECT_THAT(std::string(got.status().message()), ::testing::HasSubstr(c.told));
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(DescriptorChannelTest, AFullSocketIsNoRoomAndTheRestFollows) {
  KeeperMessage message;
  message.verb = KeeperVerb::kRankGone;
  uint64_t sent = 0;
  for (;;) {
    message.session = sent + 1;
    auto done = a_->TrySend(message, -1);
    ASSERT_TRUE(done.ok()) << done.status();
    if (!*done) break;
    ++sent;
    ASSERT_LT(sent, 100000u);
  }
  for (uint64_t i = 1; i <= sent; ++i) {
    auto got = b_->Receive(1000);
    ASSERT_TRUE(got.ok());
    ASSERT_EQ(got->message.session, i);
  }
  EXPECT_TRUE(*a_->TrySend(message, -1));
}

}  // namespace
}  // namespace muond
