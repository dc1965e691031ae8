#include "proto/wire/keeper_message.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

KeeperMessage Keep() {
  KeeperMessage message;
  message.verb = KeeperVerb::kKeep;
  message.slab = 77;
  message.size_bytes = 4096;
  message.kind = SlabKind::kJournal;
  SetLabel(message, "job 1 journal");
  return message;
}

TEST(KeeperMessageTest, ComesBackAsItWasSent) {
  absl::StatusOr<KeeperMessage> back = DecodeKeeperMessage(AsBytes(Keep()));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->verb, KeeperVerb::kKeep);
  EXPECT_EQ(back->slab, 77u);
  EXPECT_EQ(back->size_bytes, 4096u);
  EXPECT_EQ(back->kind, SlabKind::kJournal);
  EXPECT_EQ(LabelOf(*back), "job 1 journal");
}

TEST(KeeperMessageTest, ALongLabelIsCutNotOverrun) {
  KeeperMessage message = Keep();
  SetLabel(message, std::string(200, 'x'));
  EXPECT_EQ(LabelOf(message), std::string(71, 'x'));
  EXPECT_TRUE(DecodeKeeperMessage(AsBytes(message)).ok());
}

TEST(KeeperMessageTest, RefusalsSayWhatWasWrong) {
  KeeperMessage message = Keep();
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message).first(127)).status().message(),
              HasSubstr("this one has 127"));
  message.magic = 1;
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message)).status().message(),
              HasSubstr("0x00000001, not the magic"));
  message = Keep();
  message.verb = static_cast<KeeperVerb>(14);
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message)).status().message(), HasSubstr("verb 14"));
  message = Keep();
  message.kind = static_cast<SlabKind>(0);
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message)).status().message(), HasSubstr("slab kind 0"));
  message = Keep();
  message.slab = 0;
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message)).status().message(),
              HasSubstr("KEEP names slab 0"));
  message = Keep();
  message.size_bytes = uint64_t{1} << 63;
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message)).status().message(),
              HasSubstr("9223372036854775808 bytes"));
  message = Keep();
  message.label.fill('x');
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message)).status().message(),
              HasSubstr("label without an end"));
  message = {};
  message.verb = KeeperVerb::kFetch;
  EXPECT_THAT(DecodeKeeperMessage(AsBytes(message)).status().message(),
              HasSubstr("FETCH names session 0"));
}

TEST(KeeperMessageTest, OnlyKeepAndSlabCarryADescriptor) {
  int carriers = 0;
  for (uint32_t verb = 1; verb <= 13; ++verb) {
    carriers += CarriesDescriptor(static_cast<KeeperVerb>(verb)) ? 1 : 0;
    EXPECT_NE(NameOf(static_cast<KeeperVerb>(verb)), "unknown");
  }
  EXPECT_EQ(carriers, 2);
}

}  // namespace
}  // namespace muond
